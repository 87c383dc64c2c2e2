// Package chainrpc is a small CometBFT RPC client over several equal endpoints: it asks
// the last one that worked and goes on to the next when one fails.
package chainrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	requestTimeout = 3 * time.Second
	// restAfterFailure keeps a dead endpoint from slowing every call down.
	restAfterFailure = 5 * time.Second
	maxAnswerBytes   = 64 << 20
)

// ErrNoEndpoint means that no endpoint gave an answer.
var ErrNoEndpoint = errors.New("no RPC endpoint answers")

// Client asks one of several endpoints. It is safe for concurrent use.
type Client struct {
	http      *http.Client
	mu        sync.Mutex
	endpoints []*endpoint
	next      int
}

type endpoint struct {
	url       string
	restUntil time.Time
}

// New makes a client of comma-separated http:// or tcp:// URLs.
func New(urls string) (*Client, error) {
	c := &Client{http: &http.Client{Timeout: requestTimeout}}
	for url := range strings.SplitSeq(urls, ",") {
		url = strings.TrimSuffix(strings.TrimSpace(url), "/")
		if rest, ok := strings.CutPrefix(url, "tcp://"); ok {
			url = "http://" + rest
		}
		if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
			return nil, fmt.Errorf("RPC URL %q: want http://HOST:PORT", url)
		}
		c.endpoints = append(c.endpoints, &endpoint{url: url})
	}
	return c, nil
}

// Status is where an endpoint's chain stands.
type Status struct {
	ChainID        string
	EarliestHeight int64
	LatestHeight   int64
}

// Block is one block with the result codes of its transactions.
type Block struct {
	Height int64
	Time   time.Time
	Txs    [][]byte
	Codes  []uint32
}

// Tip returns the highest status among the endpoints that answer.
func (c *Client) Tip(ctx context.Context) (Status, error) {
	var best Status
	failures := []error{ErrNoEndpoint}
	answered := false
	for _, e := range c.endpoints {
		status, err := c.status(ctx, e.url)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if answered = true; status.LatestHeight >= best.LatestHeight {
			best = status
		}
	}
	if !answered {
		return Status{}, errors.Join(failures...)
	}
	return best, nil
}

func (c *Client) status(ctx context.Context, url string) (Status, error) {
	var answer struct {
		NodeInfo struct {
			Network string `json:"network"`
		} `json:"node_info"`
		SyncInfo struct {
			Earliest int64 `json:"earliest_block_height,string"`
			Latest   int64 `json:"latest_block_height,string"`
		} `json:"sync_info"`
	}
	err := c.call(ctx, url, "status", nil, &answer)
	return Status{answer.NodeInfo.Network, answer.SyncInfo.Earliest, answer.SyncInfo.Latest}, err
}

// Block fetches a height from any endpoint that has it, with its results.
func (c *Client) Block(ctx context.Context, height int64) (Block, error) {
	block := Block{Height: height}
	err := c.tryAll(func(url string) error {
		params := map[string]string{"height": strconv.FormatInt(height, 10)}
		var body struct {
			Block struct {
				Header struct {
					Time time.Time `json:"time"`
				} `json:"header"`
				Data struct {
					Txs [][]byte `json:"txs"`
				} `json:"data"`
			} `json:"block"`
		}
		if err := c.call(ctx, url, "block", params, &body); err != nil {
			return err
		}
		block.Time, block.Txs, block.Codes = body.Block.Header.Time, body.Block.Data.Txs, nil
		if len(block.Txs) == 0 {
			return nil
		}
		var results struct {
			TxsResults []struct {
				Code uint32 `json:"code"`
			} `json:"txs_results"`
		}
		if err := c.call(ctx, url, "block_results", params, &results); err != nil {
			return err
		}
		for _, result := range results.TxsResults {
			block.Codes = append(block.Codes, result.Code)
		}
		if len(block.Codes) != len(block.Txs) {
			return fmt.Errorf("%s: block %d has %d transactions and %d results", url, height, len(block.Txs), len(block.Codes))
		}
		return nil
	})
	return block, err
}

// BroadcastSync hands a transaction to one endpoint's mempool, each in its turn.
func (c *Client) BroadcastSync(ctx context.Context, tx []byte) error {
	c.mu.Lock()
	c.next++ // round robin
	c.mu.Unlock()
	return c.tryAll(func(url string) error {
		var result struct {
			Code uint32 `json:"code"`
			Log  string `json:"log"`
		}
		err := c.call(ctx, url, "broadcast_tx_sync", map[string][]byte{"tx": tx}, &result)
		if err == nil && result.Code != 0 {
			err = fmt.Errorf("%s refused the transaction: code %d, %s", url, result.Code, result.Log)
		}
		return err
	})
}

// tryAll tries each endpoint once, resting ones last.
func (c *Client) tryAll(ask func(url string) error) error {
	failures := []error{ErrNoEndpoint}
	for _, e := range c.order() {
		err := ask(e.url)
		if err == nil {
			return nil
		}
		failures = append(failures, err)
		var answered *rpcError
		if !errors.As(err, &answered) { // it is dead, rather than lacking what was asked for
			c.mu.Lock()
			e.restUntil = time.Now().Add(restAfterFailure)
			c.mu.Unlock()
		}
	}
	return errors.Join(failures...)
}

// order leaves resting endpoints out, unless all rest.
func (c *Client) order() []*endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	var awake, all []*endpoint
	for i := range c.endpoints {
		e := c.endpoints[(c.next+i)%len(c.endpoints)]
		all = append(all, e)
		if time.Now().After(e.restUntil) {
			awake = append(awake, e)
		}
	}
	if len(awake) == 0 {
		return all
	}
	return awake
}

// rpcError is an answer that says no.
type rpcError struct {
	Message string `json:"message"`
	Data    string `json:"data"`
}

func (e *rpcError) Error() string { return e.Message + ": " + e.Data }

func (c *Client) call(ctx context.Context, url, method string, params, result any) error {
	if params == nil {
		params = struct{}{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  *rpcError       `json:"error"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswerBytes)).Decode(&answer); err != nil {
		return fmt.Errorf("%s %s: HTTP %d: %w", url, method, response.StatusCode, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("%s %s: %w", url, method, answer.Error)
	}
	return json.Unmarshal(answer.Result, result)
}
