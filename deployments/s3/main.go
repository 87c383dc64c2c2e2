// Labs3 is the lab's S3 server, one a region: Versity's S3 gateway over a local folder, with conditional puts made atomic.
//
// The gateway (v1.7.0) checks If-None-Match and If-Match before it reads the body and then replaces whatever has appeared
// meanwhile: of 100 rounds of 16 concurrent creates, 21 had several winners.  Ledger, leases and sign-state registers
// rest on exactly one winner, as Amazon S3 gives it, so this program checks the condition again at the moment the object
// becomes visible.
//
// It serves one folder from one process; two processes on one folder would race again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

const (
	accessVariable = "ROOT_ACCESS_KEY_ID" // the gateway's own names: credentials never stand on a command line
	secretVariable = "ROOT_SECRET_ACCESS_KEY"

	maxConnections = 4096
	maxRequests    = 1024
	maxParts       = 10000 // Amazon's limit
	copyThreshold  = 5 << 30

	// grace is for requests that are under way. The gateway itself waits for clients to close
	// their connections, which those that keep them alive don't do; what is cut off here leaves
	// no more behind than a crash: an object is visible whole or not at all.
	grace = 2 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		time.Sleep(grace)
		os.Exit(0)
	}()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "labs3:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("labs3", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:7070", "address and port to serve on")
	data := flags.String("data", "", "folder of the buckets (a file system with extended attributes)")
	versions := flags.String("versions", "", "folder of older object versions; empty: no versioning")
	region := flags.String("region", "us-east-1", "region name that requests are signed for")
	durable := flags.Bool("fsync", false, "answer a put only when its object is on the disk, whatever the machine does")
	verbose := flags.Bool("verbose", false, "print a line for each request")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *data == "" || flags.NArg() != 0 {
		return errors.New("need --data FOLDER and no other arguments")
	}
	access, secret := os.Getenv(accessVariable), os.Getenv(secretVariable)
	if access == "" || secret == "" {
		return fmt.Errorf("set %s and %s", accessVariable, secretVariable)
	}
	store, err := openFolder(*data, *versions)
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(ctx, newAtomicPuts(store, *data, *durable), &embedgw.Config{
		RootUserAccess: access, RootUserSecret: secret, Region: *region, Ports: []string{*listen},
		MaxConnections: maxConnections, MaxRequests: maxRequests, MultipartMaxParts: maxParts,
		KeepAlive: true, Quiet: !*verbose, Version: "labs3", IAMCacheDisable: true,
	})
}

func openFolder(data, versions string) (*posix.Posix, error) {
	for _, folder := range []string{data, versions} {
		if folder != "" {
			if err := os.MkdirAll(folder, 0o700); err != nil {
				return nil, err
			}
		}
	}
	root, err := filepath.Abs(data)
	if err != nil {
		return nil, err
	}
	if versions != "" {
		if versions, err = filepath.Abs(versions); err != nil {
			return nil, err
		}
	}
	if err := (meta.XattrMeta{}).Test(root); err != nil {
		return nil, fmt.Errorf("%s cannot hold extended attributes: %w", root, err)
	}
	return posix.New(root, meta.XattrMeta{}, posix.PosixOpts{
		VersioningDir: versions, NewDirPerm: fs.FileMode(0o700), Concurrency: maxRequests,
		CopyObjectThreshold: copyThreshold,
	})
}
