// Command labload writes transactions to the lab's chain, so that its state grows, and
// records the committed ones, so that a restored state can be checked against them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"virtengine.dev/vedr/lab/internal/chainrpc"
	"virtengine.dev/vedr/lab/internal/kvtx"
	"virtengine.dev/vedr/lab/internal/load"
)

// maxRate is far above what the lab's chain takes; a typing error should not flood it.
const maxRate = 5000

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "labload:", err)
		os.Exit(1)
	}
}

func run() error {
	var config load.Config
	urls := flag.String("rpc", "", "RPC endpoints, URL[,URL...]")
	flag.Float64Var(&config.Rate, "rate", 20, "transactions per second")
	flag.IntVar(&config.ValueBytes, "value-bytes", 512, "size of each value")
	flag.IntVar(&config.Keys, "keys", 0, "number of different keys; 0 makes every key new")
	flag.StringVar(&config.Acked, "acked", "", "file to append the committed transactions to, JSON lines")
	flag.DurationVar(&config.Duration, "duration", 0, "how long to run, such as 30s; 0 until stopped")
	flag.Uint64Var(&config.Seed, "seed", uint64(time.Now().UnixNano()), "seed of keys and values")
	flag.Parse()
	switch {
	case *urls == "" || config.Acked == "":
		return errors.New("--rpc and --acked are needed")
	case config.Rate <= 0 || config.Rate > maxRate:
		return fmt.Errorf("--rate %g: want above 0 and at most %d", config.Rate, maxRate)
	case config.ValueBytes < 1 || config.ValueBytes > kvtx.MaxBytes-kvtx.MaxKeyBytes:
		return fmt.Errorf("--value-bytes %d: want 1 to %d", config.ValueBytes, kvtx.MaxBytes-kvtx.MaxKeyBytes)
	case config.Keys < 0:
		return fmt.Errorf("--keys %d: cannot be negative", config.Keys)
	}
	client, err := chainrpc.New(*urls)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return load.Run(ctx, client, config)
}
