// Command labnode makes, runs and inspects the lab's CometBFT nodes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"virtengine.dev/vedr/lab/internal/node"
)

const usage = `usage:
  labnode testnet  --plan FILE                       make the homes of a network
  labnode start    --home DIR [--isolated] [--rpc-listen ADDR] [--p2p-listen ADDR]
  labnode inspect  --home DIR | --data DIR [--deep]  read a stopped node's databases, changing nothing
  labnode rollback --home DIR                        take a stopped node one block back
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "labnode:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	commands := map[string]func(*flag.FlagSet, []string) error{
		"testnet": testnet, "start": start, "inspect": inspect, "rollback": rollback,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("want one of the commands above")
	}
	return commands[args[0]](flag.NewFlagSet("labnode "+args[0], flag.ExitOnError), args[1:])
}

func testnet(flags *flag.FlagSet, args []string) error {
	path := flags.String("plan", "", "the network's plan, JSON")
	if err := parse(flags, args, path); err != nil {
		return err
	}
	plan, err := node.LoadPlan(*path)
	if err != nil {
		return err
	}
	made, err := node.MakeTestnet(plan)
	if err != nil {
		return err
	}
	return printJSON(map[string]any{"nodes": made})
}

func start(flags *flag.FlagSet, args []string) error {
	var options node.StartOptions
	home := flags.String("home", "", "the node's home")
	flags.BoolVar(&options.Isolated, "isolated", false, "no peers and no signing: serve the data over RPC only")
	flags.StringVar(&options.RPCListen, "rpc-listen", "", "RPC address instead of config.toml's, such as tcp://127.0.0.1:26657")
	flags.StringVar(&options.P2PListen, "p2p-listen", "", "p2p address instead of config.toml's")
	if err := parse(flags, args, home); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return node.Run(ctx, *home, options)
}

func inspect(flags *flag.FlagSet, args []string) error {
	home := flags.String("home", "", "the node's home")
	data := flags.String("data", "", "the data folder, when it is not the home's")
	deep := flags.Bool("deep", false, "read every key and value of the application, and compute its hash from them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *data == "" {
		if *home == "" {
			return errors.New("--home or --data is needed")
		}
		*data = filepath.Join(*home, "data")
	}
	report, err := node.Inspect(*data, *deep)
	if err != nil {
		return err
	}
	return printJSON(report)
}

func rollback(flags *flag.FlagSet, args []string) error {
	home := flags.String("home", "", "the node's home")
	if err := parse(flags, args, home); err != nil {
		return err
	}
	height, hash, err := node.RollBack(*home)
	if err != nil {
		return err
	}
	return printJSON(map[string]any{"height": height, "app_hash": fmt.Sprintf("%X", hash)})
}

// parse reads flags of which the required one must be given.
func parse(flags *flag.FlagSet, args []string, required *string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *required == "" || flags.NArg() > 0 {
		flags.Usage()
		return errors.New("a flag is missing or an argument is not known")
	}
	return nil
}

func printJSON(v any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
