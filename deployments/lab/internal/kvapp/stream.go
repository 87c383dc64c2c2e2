package kvapp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cosmos/iavl"
)

// A snapshot is a stream of iavl nodes in export order (depth first, children before
// parents) after iavl's own compression, which leaves out the keys of inner nodes: the
// app hash does not cover them, so they are derived anew on import. One node: height
// (1 byte), version (varint), key length (uvarint), key and, for a leaf only (height
// 0), value length (uvarint) and value.

const maxStreamFieldBytes = 1 << 20

func writeNode(w *bufio.Writer, n *iavl.ExportNode) error {
	head := []byte{byte(n.Height)}
	head = binary.AppendVarint(head, n.Version)
	head = binary.AppendUvarint(head, uint64(len(n.Key)))
	if _, err := w.Write(head); err != nil {
		return err
	}
	if _, err := w.Write(n.Key); err != nil {
		return err
	}
	if n.Height > 0 {
		return nil
	}
	if _, err := w.Write(binary.AppendUvarint(nil, uint64(len(n.Value)))); err != nil {
		return err
	}
	_, err := w.Write(n.Value)
	return err
}

// readNode returns io.EOF at the clean end of a stream.
func readNode(r *bufio.Reader) (*iavl.ExportNode, error) {
	height, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	version, err := binary.ReadVarint(r)
	if err != nil {
		return nil, midStream(err)
	}
	node := &iavl.ExportNode{Height: int8(height), Version: version}
	if node.Height < 0 {
		return nil, fmt.Errorf("snapshot stream: impossible node height %d", node.Height)
	}
	if node.Key, err = readField(r); err != nil {
		return nil, err
	}
	if node.Height == 0 {
		node.Value, err = readField(r)
	}
	return node, err
}

func readField(r *bufio.Reader) ([]byte, error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, midStream(err)
	}
	if size > maxStreamFieldBytes {
		return nil, fmt.Errorf("snapshot stream: field of %d bytes, the limit is %d", size, maxStreamFieldBytes)
	}
	field := make([]byte, size)
	_, err = io.ReadFull(r, field)
	return field, midStream(err)
}

func midStream(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("snapshot stream: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// exportNodes writes a whole version. It fails when iavl ends the export early, which
// iavl itself does not report.
func exportNodes(tree *iavl.ImmutableTree, out io.Writer, cancelled func() bool) error {
	exporter, err := tree.Export()
	if err != nil {
		return err
	}
	defer exporter.Close()
	compressed := iavl.NewCompressExporter(exporter)
	w := bufio.NewWriter(out)
	var nodes int64
	for {
		node, err := compressed.Next()
		if errors.Is(err, iavl.ErrorExportDone) {
			break
		}
		if err != nil {
			return err
		}
		if cancelled() {
			return errors.New("cancelled")
		}
		if err := writeNode(w, node); err != nil {
			return err
		}
		nodes++
	}
	if want := max(2*tree.Size()-1, 0); nodes != want {
		return fmt.Errorf("export of version %d ended after %d of %d nodes", tree.Version(), nodes, want)
	}
	return w.Flush()
}

// importNodes fills an empty tree with one version; it is durable on return. iavl
// panics on some malformed streams: here that is an error, for the stream is a peer's.
func importNodes(tree *iavl.MutableTree, version int64, in io.Reader) (err error) {
	importer, err := tree.Import(version)
	if err != nil {
		return err
	}
	defer importer.Close()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("snapshot stream is malformed: %v", r)
		}
	}()
	compressed := iavl.NewCompressImporter(importer)
	r := bufio.NewReader(in)
	for {
		node, err := readNode(r)
		if errors.Is(err, io.EOF) {
			return importer.Commit()
		}
		if err != nil {
			return err
		}
		if err := compressed.Add(node); err != nil {
			return err
		}
	}
}
