// Sink is the least that an S3 client needs of a server: PUT, GET, HEAD, DELETE and ListObjectsV2 over plain files.  It
// checks no signature and no checksum and makes nothing durable, so that what a benchmark measures against it is the
// client and the wire.  Never for data that anybody wants back.
package main

import (
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const headerTimeout = 10 * time.Second

func main() {
	listen := flag.String("listen", "127.0.0.1:7080", "address and port to serve on")
	data := flag.String("data", "", "folder of the objects")
	flag.Parse()
	if *data == "" || flag.NArg() != 0 {
		fmt.Fprintln(os.Stderr, "sink: need --data FOLDER and no other arguments")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: *listen, Handler: &sink{root: *data}, ReadHeaderTimeout: headerTimeout}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "sink:", err)
		os.Exit(1)
	}
}

type sink struct {
	root  string
	count atomic.Uint64
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	file := filepath.Join(s.root, bucket, filepath.FromSlash(key))
	var err error
	switch {
	case !filepath.IsLocal(bucket) || (key != "" && !filepath.IsLocal(key)):
		http.Error(w, "bad key", http.StatusBadRequest)
	case r.Method == http.MethodPut && key == "":
		err = os.MkdirAll(file, 0o700)
	case r.Method == http.MethodPut:
		err = s.put(w, r, file)
	case r.Method == http.MethodGet && key == "":
		err = s.list(w, r, filepath.Join(s.root, bucket))
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		err = s.get(w, r, file)
	case r.Method == http.MethodDelete:
		if err = os.Remove(file); err == nil || errors.Is(err, fs.ErrNotExist) {
			w.WriteHeader(http.StatusNoContent)
			err = nil
		}
	default:
		w.WriteHeader(http.StatusNotImplemented)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, "<Error><Code>NoSuchKey</Code></Error>", http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// put writes beside the key and then links, so that a create finds an existing key and nobody sees half an object.
func (s *sink) put(w http.ResponseWriter, r *http.Request, file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	temporary := filepath.Join(s.root, fmt.Sprintf(".put-%d", s.count.Add(1)))
	out, err := os.Create(temporary)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	_, err = io.Copy(out, r.Body)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if r.Header.Get("If-None-Match") == "*" {
		err = os.Link(temporary, file)
	} else {
		err = os.Rename(temporary, file)
	}
	if errors.Is(err, fs.ErrExist) {
		http.Error(w, "<Error><Code>PreconditionFailed</Code></Error>", http.StatusPreconditionFailed)
		return nil
	}
	w.Header().Set("ETag", `"sink"`)
	return err
}

func (s *sink) get(w http.ResponseWriter, r *http.Request, file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	status, err := in.Stat()
	if err != nil {
		return err
	}
	if status.IsDir() {
		return fs.ErrNotExist
	}
	w.Header().Set("ETag", `"sink"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", status.ModTime(), in)
	return nil
}

type entry struct {
	Key          string
	LastModified string
	ETag         string
	Size         int64
}

type listing struct {
	XMLName     xml.Name `xml:"ListBucketResult"`
	Name        string
	Prefix      string
	KeyCount    int
	IsTruncated bool
	Contents    []entry
}

// list answers with everything under the prefix at once: benchmarks hold thousands of objects, not millions.
func (s *sink) list(w http.ResponseWriter, r *http.Request, bucket string) error {
	answer := listing{Name: filepath.Base(bucket), Prefix: r.URL.Query().Get("prefix")}
	err := filepath.WalkDir(bucket, func(path string, found fs.DirEntry, err error) error {
		if err != nil || found.IsDir() {
			return err
		}
		relative, err := filepath.Rel(bucket, path)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(relative)
		if !strings.HasPrefix(key, answer.Prefix) {
			return nil
		}
		status, err := found.Info()
		if err != nil {
			return err
		}
		answer.Contents = append(answer.Contents, entry{key, status.ModTime().UTC().Format(time.RFC3339), `"sink"`, status.Size()})
		return nil
	})
	if err != nil {
		return err
	}
	sort.Slice(answer.Contents, func(i, j int) bool { return answer.Contents[i].Key < answer.Contents[j].Key })
	answer.KeyCount = len(answer.Contents)
	w.Header().Set("Content-Type", "application/xml")
	return xml.NewEncoder(w).Encode(answer)
}
