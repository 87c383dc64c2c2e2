package node

import (
	"crypto/sha256"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/privval"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
)

// BenchmarkFilePV signs one prevote a height with CometBFT's own file-based signer, in its process: what the remote
// signer is compared with (bench/signer.py).
func BenchmarkFilePV(b *testing.B) {
	folder := b.TempDir()
	signer := privval.NewFilePV(ed25519.GenPrivKey(), filepath.Join(folder, "key"), filepath.Join(folder, "state"))
	hash := sha256.Sum256([]byte("block"))
	block := cmtproto.BlockID{Hash: hash[:], PartSetHeader: cmtproto.PartSetHeader{Total: 1, Hash: hash[:]}}
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for i := range b.N {
		vote := &cmtproto.Vote{
			Type: cmtproto.PrevoteType, Height: int64(i) + 1, BlockID: block,
			Timestamp: time.Now(), ValidatorAddress: signer.GetAddress(),
		}
		began := time.Now()
		if err := signer.SignVote("bench-1", vote); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
