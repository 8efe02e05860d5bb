package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stored is a front over an object store that h stands for; with nil nobody serves the socket.
func stored(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "s3") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	if h != nil {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: h}
		go srv.Serve(l)
		t.Cleanup(func() { srv.Close() })
	}
	f, err := New(Config{Objects: socket})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return srv
}

func signedFor(service string) string {
	return "AWS4-HMAC-SHA256 Credential=AKIAX/20261123/ichiro-1/" + service + "/aws4_request, SignedHeaders=host, Signature=00"
}

func TestWhatIsTheObjectStores(t *testing.T) {
	for _, c := range []struct {
		name, target, authorization string
		want                        bool
	}{
		{"what is signed for s3", "/bucket/key", signedFor("s3"), true},
		{"also the list of buckets, at the API's own path", "/", signedFor("s3"), true},
		{"what is presigned for s3", "/b/k?X-Amz-Algorithm=x&X-Amz-Credential=AKIAX%2F20261123%2Fichiro-1%2Fs3%2Faws4_request&X-Amz-Signature=0", "", true},
		{"what is signed for EC2 is not", "/", signedFor("ec2"), false},
		{"wherever it is sent", "/bucket", signedFor("ec2"), false},
		{"what is presigned for STS is not", "/?Action=GetCallerIdentity&X-Amz-Credential=AKIAX%2F20261123%2Fus-east-1%2Fsts%2Faws4_request", "", false},
		{"a path without a signature is a bucket's", "/bucket/key", "", true},
		{"so is one with a signature of another kind", "/bucket/key", "AWS AKIAX:c2ln", true},
		{"the API's path without a signature is the API's", "/?Action=DescribeInstances", "", false},
		{"a path that no bucket can have is not the object store's", "/.well-known/openid-configuration", "", false},
		{"an access key with slashes names no other service", "/", "AWS4-HMAC-SHA256 Credential=A/s3/aws4_request/20261123/ichiro-1/ec2/aws4_request, SignedHeaders=host, Signature=00", false},
		{"a claim that is cut off is none", "/", "AWS4-HMAC-SHA256 Credential=AKIAX/s3", false},
	} {
		r := httptest.NewRequest(http.MethodGet, c.target, nil)
		if c.authorization != "" {
			r.Header.Set("Authorization", c.authorization)
		}
		if got := ofObjects(r); got != c.want {
			t.Errorf("%s: %s is the object store's: %t, want %t", c.name, c.target, got, c.want)
		}
	}
}

// Whatever a signature may cover arrives as it was sent, and a body of any size.
func TestARequestForObjectsPassesUntouched(t *testing.T) {
	const size = 5 << 20 // the API's own requests have at most one
	srv := stored(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Amz-Request-Id", "1")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s %s %d %d %v", r.Method, r.RequestURI, r.Host, r.Header.Get("X-Amz-Content-Sha256"), r.ContentLength, n, err)
	}))
	const target = "/bucket/a%20b%2Fc//d%C3%A4?x=%zz;y&acl"
	req, err := http.NewRequest(http.MethodPut, srv.URL+"/", io.LimitReader(zero{}, size))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = target // as it stands
	req.Host, req.ContentLength = "s3.example", size
	req.Header.Set("Authorization", signedFor("s3"))
	req.Header.Set("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	want := fmt.Sprintf("PUT %s s3.example STREAMING-AWS4-HMAC-SHA256-PAYLOAD %d %d <nil>", target, size, size)
	if string(got) != want || resp.StatusCode != http.StatusCreated || resp.Header.Get("X-Amz-Request-Id") != "1" {
		t.Errorf("got %d %s\nwant 201 %s", resp.StatusCode, got, want)
	}
}

// A client that asks first sends its body only if the store wants it.
func TestTheStoreSaysWhetherItWantsABody(t *testing.T) {
	srv := stored(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s", body)
	}))
	for path, want := range map[string][]string{"/taken": {"HTTP/1.1 100", "HTTP/1.1 200"}, "/refused": {"HTTP/1.1 403"}} {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", path)
		in := bufio.NewReader(c)
		for i, status := range want {
			line, err := in.ReadString('\n')
			if !strings.HasPrefix(line, status) {
				t.Fatalf("%s: line %d is %q, %v; want %s", path, i, line, err, status)
			}
			if i < len(want)-1 {
				in.ReadString('\n')
				fmt.Fprint(c, "body")
			}
		}
	}
}

func TestAnObjectStoreThatIsAwayIsToldInItsOwnWords(t *testing.T) {
	srv := stored(t, nil)
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut} {
		req, err := http.NewRequest(method, srv.URL+"/bucket/key", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if has := strings.Contains(string(body), "<Error><Code>ServiceUnavailable</Code>"); resp.StatusCode != 503 || has != (method != http.MethodHead) {
			t.Errorf("%s: %d %s", method, resp.StatusCode, body)
		}
	}
}

// The store may be gone in the middle of a body. The client is told, also one that goes on sending.
func TestAnObjectStoreThatDiesInABody(t *testing.T) {
	srv := stored(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1<<20)
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			c.Close()
		}
	}))
	req, err := http.NewRequest(http.MethodPut, srv.URL+"/bucket/key", io.LimitReader(zero{}, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 64 << 20
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return // the connection was cut while the client was sending: it cannot take that for success
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %d, want 503", resp.StatusCode)
	}
}

// Who makes, changes or removes a bucket is written down; what is refused, read, or done to objects is not.
func TestChangesOfBucketsLeaveALine(t *testing.T) {
	dir := t.TempDir()
	store := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "refused") {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	store.Listener = l
	store.Start()
	defer store.Close()
	var audit strings.Builder
	f, err := New(Config{Objects: socket, Audit: &audit})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ method, target, want string }{
		{"PUT", "/one", "CreateBucket arn:aws:s3:::one AKIAX"},
		{"PUT", "/one/", "CreateBucket arn:aws:s3:::one AKIAX"},
		{"PUT", "/one?policy", "PutBucketPolicy arn:aws:s3:::one AKIAX"},
		{"DELETE", "/one?policy", "DeleteBucketPolicy arn:aws:s3:::one AKIAX"},
		{"PUT", "/one?versioning=", "PutBucketVersioning arn:aws:s3:::one AKIAX"},
		{"DELETE", "/one", "DeleteBucket arn:aws:s3:::one AKIAX"},
		{"PUT", "/refused", ""},
		{"GET", "/one?policy", ""},
		{"PUT", "/one/object", ""},
		{"POST", "/one?delete", ""},
		{"GET", "/", ""},
	} {
		audit.Reset()
		r := httptest.NewRequest(c.method, c.target, nil)
		r.Header.Set("Authorization", signedFor("s3"))
		f.ServeHTTP(httptest.NewRecorder(), r)
		got := ""
		if audit.Len() > 0 {
			var line auditLine
			if err := json.Unmarshal([]byte(audit.String()), &line); err != nil {
				t.Fatal(err)
			}
			got = line.Action + " " + line.Resources[0] + " " + line.AccessKey
		}
		if got != c.want {
			t.Errorf("%s %s: written down is %q, want %q", c.method, c.target, got, c.want)
		}
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
