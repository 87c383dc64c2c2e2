// Command labprovider is the lab's stand-in for VirtEngine's provider daemon: it follows
// the chain and keeps checkpoints in VirtEngine's format, and provides nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"virtengine.dev/vedr/lab/internal/chainrpc"
	"virtengine.dev/vedr/lab/internal/provider"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "labprovider:", err)
		os.Exit(1)
	}
}

func run() error {
	var config provider.Config
	urls := flag.String("rpc", "", "RPC endpoints, URL[,URL...]")
	flag.StringVar(&config.Home, "home", "", "the provider's home")
	flag.StringVar(&config.ID, "id", "", "the provider's name, such as provider-us-east-0")
	flag.StringVar(&config.Listen, "listen", "", "address of /healthz, IP:PORT")
	flag.BoolVar(&config.Wait, "wait", false, "wait for a chain that is behind the checkpoints instead of refusing to start")
	flag.BoolVar(&config.Reserve, "reserve", false, "go on as the provider whose checkpoints are in the home, under --id when there are none")
	flag.Parse()
	for name, value := range map[string]string{
		"rpc": *urls, "home": config.Home, "id": config.ID, "listen": config.Listen,
	} {
		if value == "" {
			return fmt.Errorf("--%s is needed", name)
		}
	}
	client, err := chainrpc.New(*urls)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return provider.Run(ctx, client, config)
}
