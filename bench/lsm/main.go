// Lsm writes a data folder like that of a CometBFT node: goleveldb databases with the key shapes of application.db,
// blockstore.db, tx_index.db and state.db, and a write-ahead log.  With --grow it lets the same folder live on for a
// share of its history: new heights, updates of random keys, pruning of the oldest heights, and the compaction these cause.
//
// Every key and value follows from --seed.  Which table a row ends in does not: goleveldb compacts in the background, so
// two runs with one seed hold the same rows in slightly different files.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// planName holds what a later --grow must know.
const planName = "lsm-plan.json"

// plan is the state of a generated folder.
type plan struct {
	Seed   uint64 `json:"seed"`
	Bytes  int64  `json:"bytes"`
	Base   int64  `json:"base"` // lowest height that is still there
	Height int64  `json:"height"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lsm:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("lsm", flag.ContinueOnError)
	folder := flags.String("folder", "", "where the data folder is, or is to be")
	size := flags.String("bytes", "2GB", "size of the first state (suffix MB or GB)")
	seed := flags.Uint64("seed", 1, "all content follows from it")
	grow := flags.String("grow", "", "let an existing folder live on for this share of its heights, such as 5%")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *folder == "" || flags.NArg() != 0 {
		return errors.New("need --folder FOLDER and no other arguments")
	}
	if *grow != "" {
		return growFolder(*folder, *grow)
	}
	bytes, err := parseSize(*size)
	if err != nil {
		return err
	}
	return makeFolder(*folder, bytes, *seed)
}

func makeFolder(folder string, bytes int64, seed uint64) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	p := plan{Seed: seed, Bytes: bytes, Base: firstHeight, Height: firstHeight + bytes/storedPerHeight - 1}
	if p.Height-p.Base < minHeights {
		return fmt.Errorf("--bytes %d is too small: a height has %d and %d heights are needed", bytes, storedPerHeight, minHeights)
	}
	if err := everyDatabase(folder, p, func(d *database) error { return d.load(p.Height) }); err != nil {
		return err
	}
	return writePlan(folder, p)
}

func growFolder(folder, share string) error {
	p, err := readPlan(folder)
	if err != nil {
		return err
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(share, "%"), 64)
	if err != nil || percent <= 0 || percent > 100 || !strings.HasSuffix(share, "%") {
		return fmt.Errorf("--grow %q is not a percentage of (0, 100]", share)
	}
	heights := max(1, int64(float64(p.Height-p.Base+1)*percent/100))
	err = everyDatabase(folder, p, func(d *database) error { return d.live(p.Height+1, p.Height+heights, heights, p.Base) })
	if err != nil {
		return err
	}
	p.Base += heights
	p.Height += heights
	return writePlan(folder, p)
}

// everyDatabase opens all databases and runs act on each at once.
func everyDatabase(folder string, p plan, act func(*database) error) error {
	var group sync.WaitGroup
	failures := make([]error, len(shapes))
	for i, shape := range shapes {
		group.Go(func() {
			d, err := openDatabase(folder, shape, p)
			if err == nil {
				err = errors.Join(act(d), d.close())
			}
			if err != nil {
				failures[i] = fmt.Errorf("%s: %w", shape.name, err)
			}
		})
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return writeLog(folder, p)
}

func readPlan(folder string) (plan, error) {
	var p plan
	content, err := os.ReadFile(planPath(folder))
	if err != nil {
		return p, fmt.Errorf("not a generated folder: %w", err)
	}
	return p, json.Unmarshal(content, &p)
}

func writePlan(folder string, p plan) error {
	content, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(planPath(folder), content, 0o600)
}

// planPath is beside the folder, so that the folder holds what a node's would.
func planPath(folder string) string {
	clean := filepath.Clean(folder)
	return filepath.Join(filepath.Dir(clean), filepath.Base(clean)+"."+planName)
}

func parseSize(text string) (int64, error) {
	for suffix, unit := range map[string]int64{"MB": 1e6, "GB": 1e9} {
		if number, found := strings.CutSuffix(text, suffix); found {
			value, err := strconv.ParseFloat(number, 64)
			if err == nil && value > 0 {
				return int64(value * float64(unit)), nil
			}
		}
	}
	return 0, fmt.Errorf("--bytes %q is not a size such as 200MB or 2GB", text)
}
