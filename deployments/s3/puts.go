package main

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3response"
)

const etagAttribute = "etag" // set on every object, and not on delete markers

// atomicPuts makes conditional puts of one key, If-None-Match and If-Match alike, exclusive with every other put of it,
// and lets a reader see content and ETag of the same put.
//
// The lock is held only from after the body has been received until the object is visible, so that a client that stalls
// in mid-body holds nobody up.
//
// A durable one answers a put when content, attributes and name are on the disk; the gateway itself leaves that to the
// kernel, which is enough against the death of the process and not against that of the machine.
type atomicPuts struct {
	*posix.Posix
	root    string
	durable bool
	keys    keyedLocks
}

func newAtomicPuts(store *posix.Posix, root string, durable bool) *atomicPuts {
	return &atomicPuts{Posix: store, root: root, durable: durable, keys: keyedLocks{held: make(map[string]*keyLock)}}
}

// PutObject writes one object.
func (a *atomicPuts) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	if in.Bucket == nil || in.Key == nil {
		return a.Posix.PutObject(ctx, in)
	}
	var unlock func()
	var refusal error
	out, err := a.Posix.PutObjectWithPostFunc(ctx, in, func(file *os.File) error {
		if a.durable {
			if err := file.Sync(); err != nil { // before the lock: nobody waits for another's disk
				return err
			}
		}
		unlock = a.keys.lock(*in.Bucket + "/" + *in.Key)
		refusal = recheck(in)
		return refusal
	})
	if unlock != nil {
		unlock()
	}
	if refusal != nil {
		return s3response.PutObjectOutput{}, refusal // the bare error: the gateway answers 412 only to that
	}
	if err == nil && a.durable {
		err = a.syncName(*in.Bucket, *in.Key)
	}
	return out, err
}

// syncName makes an object's name durable, and those of the folders that it is in, which it may have been the first of.
func (a *atomicPuts) syncName(bucket, key string) error {
	for folder := path.Join(bucket, key); folder != "."; {
		folder = path.Dir(folder)
		opened, err := os.Open(filepath.Join(a.root, folder))
		if err != nil {
			return err
		}
		if err := errors.Join(opened.Sync(), opened.Close()); err != nil {
			return err
		}
	}
	return nil
}

// GetObject opens one object; the gateway reads the ETag first and the file afterwards, and a put between the two would
// give the reader a pair that never was.  The body is sent after the lock is gone: the open file can't change any more.
func (a *atomicPuts) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	if in.Bucket != nil && in.Key != nil {
		defer a.keys.lock(*in.Bucket + "/" + *in.Key)()
	}
	return a.Posix.GetObject(ctx, in)
}

// CompleteMultipartUpload joins the parts; here the gateway's own check and the write are close, and one lock spans both.
func (a *atomicPuts) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput) (
	s3response.CompleteMultipartUploadResult, string, error,
) {
	if in.Bucket != nil && in.Key != nil {
		defer a.keys.lock(*in.Bucket + "/" + *in.Key)()
	}
	return a.Posix.CompleteMultipartUpload(ctx, in)
}

func recheck(in s3response.PutObjectInput) error {
	etag, err := meta.XattrMeta{}.RetrieveAttribute(nil, *in.Bucket, *in.Key, etagAttribute)
	return backend.EvaluateObjectPutPreconditions(string(etag), in.IfMatch, in.IfNoneMatch, err == nil)
}

// keyedLocks is one mutex for each key in use; memory follows the number of puts in flight.
type keyedLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int
}

func (k *keyedLocks) lock(key string) (unlock func()) {
	k.mu.Lock()
	entry, ok := k.held[key]
	if !ok {
		entry = &keyLock{}
		k.held[key] = entry
	}
	entry.users++
	k.mu.Unlock()
	entry.Lock()
	return func() {
		entry.Unlock()
		k.mu.Lock()
		if entry.users--; entry.users == 0 {
			delete(k.held, key)
		}
		k.mu.Unlock()
	}
}
