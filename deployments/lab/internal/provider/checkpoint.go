package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"virtengine.dev/vedr/lab/internal/durable"
)

// streams are the daemon's subscriptions, each with its own checkpoint file.
var streams = []string{"marketplace", "waldur_order", "provisioning"}

// checkpoint is VirtEngine's format.
type checkpoint struct {
	SubscriberID string    `json:"subscriber_id"`
	LastSequence int64     `json:"last_sequence"`
	UpdatedAt    time.Time `json:"updated_at"`
}

// checkpoints are one provider's, by stream.
type checkpoints struct {
	dir        string
	providerID string
	last       map[string]int64
}

func loadCheckpoints(dir, providerID string) (*checkpoints, error) {
	c := &checkpoints{dir: dir, providerID: providerID, last: map[string]int64{}}
	for _, stream := range streams {
		data, err := os.ReadFile(c.path(stream))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var found checkpoint
		if err := json.Unmarshal(data, &found); err != nil {
			return nil, fmt.Errorf("checkpoint %s is corrupt: %w; restore it, or remove it to handle all events anew", c.path(stream), err)
		}
		if found.SubscriberID != c.subscriber(stream) || found.LastSequence < 0 {
			return nil, fmt.Errorf("checkpoint %s: subscriber %q at sequence %d, want subscriber %q at 0 or above; it is not this provider's",
				c.path(stream), found.SubscriberID, found.LastSequence, c.subscriber(stream))
		}
		c.last[stream] = found.LastSequence
	}
	return c, nil
}

// ownerOf is the provider whose checkpoints are in dir, the given one when there are none.
func ownerOf(dir, otherwise string) (string, error) {
	for _, stream := range streams {
		path := (&checkpoints{dir: dir}).path(stream)
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		var found checkpoint
		if err := json.Unmarshal(data, &found); err != nil {
			return "", fmt.Errorf("checkpoint %s is corrupt: %w; restore it", path, err)
		}
		owner, whole := strings.CutSuffix(found.SubscriberID, "/"+stream)
		if !whole {
			return "", fmt.Errorf("checkpoint %s: subscriber %q is of no provider", path, found.SubscriberID)
		}
		return owner, nil
	}
	return otherwise, nil
}

func (c *checkpoints) path(stream string) string {
	return filepath.Join(c.dir, stream+"_checkpoint.json")
}

func (c *checkpoints) subscriber(stream string) string { return c.providerID + "/" + stream }

func (c *checkpoints) advance(stream string, sequence int64) error {
	c.last[stream] = sequence
	return durable.WriteJSON(c.path(stream), checkpoint{
		SubscriberID: c.subscriber(stream), LastSequence: sequence, UpdatedAt: time.Now().UTC(),
	}, 0o644)
}

// lowest is where reading must begin so that no stream misses an event.
func (c *checkpoints) lowest() int64 {
	low := c.last[streams[0]]
	for _, stream := range streams {
		low = min(low, c.last[stream])
	}
	return low
}

func (c *checkpoints) highest() int64 {
	var high int64
	for _, last := range c.last {
		high = max(high, last)
	}
	return high
}
