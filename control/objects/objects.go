// Package objects writes into the object store in the name of who has asked for it.
//
// The control plane has no rights of its own there: each request is signed with credentials of the caller for whom
// something is kept, and the object store asks IAM and the bucket's policy as it does with everybody. So nothing lands
// where its owner could not have put it, also if their rights have changed since.
package objects

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/ichiro-metal/ichiro/control/sigv4"
)

// patience is how long the store may take for its answer, and slowest how many bytes of a body it takes in a second at
// least: one that hangs must not hold the others up for ever.
const (
	patience = time.Minute
	slowest  = 1 << 20
)

// Refused is the store's answer to a request that it will not carry out.
type Refused struct {
	Status  int
	Code    string // of S3: NoSuchBucket, AccessDenied ...
	Message string
}

func (r Refused) Error() string {
	return fmt.Sprintf("the object store: %s: %.200s", r.Code, r.Message)
}

// Store is the object store behind a socket.
type Store struct {
	region string
	client *http.Client
	now    func() time.Time
}

// New returns the store at a unix socket.
func New(socket, region string) *Store {
	return &Store{region: region, now: time.Now, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		ResponseHeaderTimeout: patience, MaxIdleConnsPerHost: 4, IdleConnTimeout: patience, WriteBufferSize: 128 << 10, DisableCompression: true,
	}}}
}

// Signer is whose request it is.
type Signer struct{ AccessKeyID, Secret, Token string }

// Put writes an object of so many bytes. It appears whole or not at all, and replaces one of the same key.
func (s *Store) Put(ctx context.Context, as Signer, bucket, key string, size int64, body io.Reader) error {
	return s.put(ctx, as, bucket, key, size, body, nil)
}

// Probe asks whether Put would be let in, by a write on a condition that no object meets. Nothing changes.
func (s *Store) Probe(ctx context.Context, as Signer, bucket, key string) error {
	err := s.put(ctx, as, bucket, key, 0, http.NoBody, map[string]string{"If-Match": `"what no object has"`})
	if r, ok := err.(Refused); ok && (r.Status == http.StatusPreconditionFailed || r.Code == "NoSuchKey") {
		return nil // what came after the question of rights
	}
	return err
}

func (s *Store) put(ctx context.Context, as Signer, bucket, key string, size int64, body io.Reader, header map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, patience+time.Duration(size/slowest)*time.Second)
	defer cancel()
	u := url.URL{Scheme: "http", Host: "objects", Path: "/" + bucket + "/" + key}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, u.String(), body)
	if err != nil {
		return err
	}
	r.ContentLength = size
	for k, v := range header {
		r.Header.Set(k, v)
	}
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD") // it is streamed, between two processes of a host
	signer := sigv4.Signer{AccessKeyID: as.AccessKeyID, Secret: as.Secret, SessionToken: as.Token, Region: s.region, Service: "s3"}
	// S3's paths are escaped once, which the signer does.
	signer.Sign(sigv4.Request{Method: r.Method, Path: u.Path, Host: u.Host, Header: r.Header}, s.now())
	resp, err := s.client.Do(r)
	if err != nil {
		return fmt.Errorf("write to the object store: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("write to the object store: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	refused := Refused{Status: resp.StatusCode, Code: resp.Status}
	var said struct{ Code, Message string }
	if xml.Unmarshal(text, &said) == nil && said.Code != "" {
		refused.Code, refused.Message = said.Code, said.Message
	}
	if resp.StatusCode >= http.StatusInternalServerError { // it is not there in full: to be asked again
		return fmt.Errorf("write to the object store: %s", refused.Code)
	}
	return refused
}
