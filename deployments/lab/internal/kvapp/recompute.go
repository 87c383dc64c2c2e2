package kvapp

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cosmos/iavl"
)

// RecomputeRoot reads every key and value of the newest version in dataDir and returns the
// app hash that they have. An iavl tree believes the hashes stored in its inner nodes, so
// that a damaged leaf is noticed only when somebody reads it: ReadTip, and a node that
// starts, would not. The database is opened read-only; memory stays flat.
func RecomputeRoot(dataDir string) (height int64, hash []byte, err error) {
	s, err := openStore(dataDir, dbName, true)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	tree, err := s.version(s.tree.Version())
	if err != nil {
		return 0, nil, err
	}
	hash, err = recompute(tree)
	return tree.Version(), hash, err
}

// subtree is what a parent's hash needs of a child.
type subtree struct {
	hash [sha256.Size]byte
	size int64
}

// recompute folds the nodes, which come children before parents, into the root's hash.
func recompute(tree *iavl.ImmutableTree) ([]byte, error) {
	if tree.Size() == 0 {
		return tree.Hash(), nil
	}
	exporter, err := tree.Export()
	if err != nil {
		return nil, err
	}
	defer exporter.Close()
	var open []subtree
	for {
		node, err := exporter.Next()
		if errors.Is(err, iavl.ErrorExportDone) {
			break
		}
		if err != nil {
			return nil, err
		}
		if node.Height == 0 {
			open = append(open, leaf(node))
			continue
		}
		if len(open) < 2 {
			return nil, fmt.Errorf("state of version %d: an inner node without two children", tree.Version())
		}
		left, right := open[len(open)-2], open[len(open)-1]
		open = append(open[:len(open)-2], inner(node, left, right))
	}
	if len(open) != 1 || open[0].size != tree.Size() {
		return nil, fmt.Errorf("state of version %d: the tree is not whole: %d loose parts", tree.Version(), len(open))
	}
	return open[0].hash[:], nil
}

func leaf(node *iavl.ExportNode) subtree {
	value := sha256.Sum256(node.Value)
	return subtree{hash: hashNode(node, 1, node.Key, value[:]), size: 1}
}

func inner(node *iavl.ExportNode, left, right subtree) subtree {
	size := left.size + right.size
	return subtree{hash: hashNode(node, size, left.hash[:], right.hash[:]), size: size}
}

// hashNode is iavl's: SHA-256 over height, size and version as varints, then two fields
// with their lengths (iavl v1, docs/node/node.md).
func hashNode(node *iavl.ExportNode, size int64, fields ...[]byte) [sha256.Size]byte {
	data := binary.AppendVarint(nil, int64(node.Height))
	data = binary.AppendVarint(data, size)
	data = binary.AppendVarint(data, node.Version)
	for _, field := range fields {
		data = binary.AppendUvarint(data, uint64(len(field)))
		data = append(data, field...)
	}
	return sha256.Sum256(data)
}
