// Command labzoned runs one zone of the lab: it is the parent of the zone's services
// and answers for them over HTTP, as systemd and sshd would on real machines.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"virtengine.dev/vedr/lab/internal/zone"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == zone.KeeperArg {
		zone.RunKeeper(os.Stdin)
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "labzoned:", err)
		os.Exit(1)
	}
}

func run() error {
	var config zone.Config
	flag.StringVar(&config.Zone, "zone", "", "the zone's name")
	flag.StringVar(&config.Listen, "listen", "", "address of the API, IP:PORT")
	flag.StringVar(&config.Units, "units", "", "file that keeps the units, JSON; made when absent")
	flag.StringVar(&config.TokenFile, "token-file", "", "file with the bearer token that every call must carry")
	flag.StringVar(&config.Relay, "relay", "", "file with the zone's TCP relays, JSON; turns relay mode on")
	flag.StringVar(&config.Control, "control", "", "unix socket that serves the API even while the zone is cut")
	flag.Parse()
	for name, value := range map[string]string{
		"zone": config.Zone, "listen": config.Listen, "units": config.Units, "token-file": config.TokenFile,
	} {
		if value == "" {
			return fmt.Errorf("--%s is needed", name)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return zone.Run(ctx, config)
}
