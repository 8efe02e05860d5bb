package server

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/imds/tree"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const (
	testVPC  = cloud.VPCID("vpc-00000000000000001")
	testID   = cloud.InstanceID("i-00000000000000001")
	testAddr = "127.0.0.1" // the guest is this process
)

// world is a server on the loopback address, and the run directory that it reads.
type world struct {
	t      testing.TB
	root   bundle.Root
	server *Server
	addr   string
}

// newWorld starts a server; change, if given, prepares it.
func newWorld(t testing.TB, change ...func(*Server)) *world {
	t.Helper()
	root := bundle.Root(t.TempDir())
	tokens, err := OpenTokens(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	index := bundle.NewIndex(root)
	w := &world{t: t, root: root, server: New(index, tree.EC2(), tokens, slog.New(slog.DiscardHandler))}
	for _, c := range change {
		c(w.server)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	w.server.serve(testVPC, l)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.server.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); index.Close() })
	return w
}

func instance(id cloud.InstanceID, addr string) bundle.Metadata {
	return bundle.Metadata{
		Instance: id, Type: "t3.micro", Hostname: "ip-10-0-0-5", Launched: time.Date(2026, 11, 23, 18, 0, 5, 0, time.UTC),
		Interfaces: []bundle.MetadataInterface{{VPC: testVPC, MAC: "02:00:00:00:00:01", Addresses: []netip.Addr{netip.MustParseAddr(addr)}}},
		Options:    cloud.DefaultMetadataOptions(),
		Identity: cloud.IdentityDocument{Document: fmt.Sprintf("{\n  \"instanceId\" : %q,\n  \"region\" : \"ichiro-1\"\n}", id),
			Signature: "c2ln", RSA2048: "cnNh", PKCS7: "cDc="},
		UserData: []byte("#!/bin/sh\n\x00\xff\r\n"),
	}
}

// publish writes the bundle of the instance that has the address of this process.
func (w *world) publish(change func(*bundle.Metadata)) {
	w.t.Helper()
	m := instance(testID, testAddr)
	if change != nil {
		change(&m)
	}
	w.put(m)
}

func (w *world) put(m bundle.Metadata) {
	w.t.Helper()
	if err := os.MkdirAll(string(w.root.Instance(m.Instance)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := bundle.Write(w.root.Instance(m.Instance).Path("metadata.json"), m, 0o640); err != nil {
		w.t.Fatal(err)
	}
}

// do sends one request as curl --path-as-is would, and returns the reply with its body read.
func (w *world) do(method, target string, headers ...string) (*http.Response, string) {
	w.t.Helper()
	c, err := net.Dial("tcp4", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: 169.254.169.254\r\n", method, target)
	for _, h := range headers {
		fmt.Fprintf(c, "%s\r\n", h)
	}
	fmt.Fprint(c, "\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, target, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, target, err)
	}
	return resp, string(body)
}

// connections returns how many the server has open.
func (w *world) connections() (n int) {
	c := &w.server.callers
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range c.open {
		n += of
	}
	return n
}

func (w *world) token(headers ...string) string {
	w.t.Helper()
	resp, body := w.do("PUT", "/latest/api/token", append(headers, "X-aws-ec2-metadata-token-ttl-seconds: 60")...)
	if resp.StatusCode != 200 {
		w.t.Fatalf("PUT token: %d", resp.StatusCode)
	}
	return body
}

func TestRequests(t *testing.T) {
	w := newWorld(t)
	ttl := func(s string) string { return "X-aws-ec2-metadata-token-ttl-seconds: " + s }
	for _, c := range []struct {
		name    string
		method  string
		target  string
		header  string
		options func(*bundle.Metadata)
		code    int
		allow   string
	}{
		{"a leaf", "GET", "/latest/meta-data/instance-id", "", nil, 200, ""},
		{"double slashes are no redirect", "GET", "/latest//meta-data/instance-id", "", nil, 200, ""},
		{"a whole URL as a proxy sends it", "GET", "http://169.254.169.254/latest/meta-data/instance-id", "", nil, 200, ""},
		{"a query changes nothing", "GET", "/latest/meta-data/instance-id?x=y", "", nil, 200, ""},
		{"nothing there", "GET", "/latest/meta-data/none", "", nil, 404, ""},
		{"no user data", "GET", "/latest/user-data", "", func(m *bundle.Metadata) { m.UserData = nil }, 404, ""},
		{"a method that is not for reading", "POST", "/latest/meta-data/instance-id", "", nil, 405, "GET, HEAD"},
		{"putting elsewhere", "PUT", "/latest/meta-data/instance-id", "", nil, 405, "GET, HEAD"},
		{"reading the token path", "GET", "/latest/api/token", "", nil, 405, "OPTIONS, PUT"},
		{"a token", "PUT", "/latest/api/token", ttl("60"), nil, 200, ""},
		{"a token with more slashes", "PUT", "//latest/api//token/", ttl("60"), nil, 200, ""},
		{"the shortest", "PUT", "/latest/api/token", ttl("1"), nil, 200, ""},
		{"the longest", "PUT", "/latest/api/token", ttl("21600"), nil, 200, ""},
		{"too long", "PUT", "/latest/api/token", ttl("21601"), nil, 400, ""},
		{"no life", "PUT", "/latest/api/token", ttl("0"), nil, 400, ""},
		{"a negative one", "PUT", "/latest/api/token", ttl("-1"), nil, 400, ""},
		{"not a number", "PUT", "/latest/api/token", ttl("1h"), nil, 400, ""},
		{"without a life", "PUT", "/latest/api/token", "", nil, 400, ""},
		{"an older version's token", "PUT", "/2021-03-23/api/token", ttl("60"), nil, 403, ""},
		{"behind a proxy", "PUT", "/latest/api/token", ttl("60") + "\r\nX-Forwarded-For: 10.0.0.1", nil, 400, ""},
		{"behind a proxy that hides it", "PUT", "/latest/api/token", ttl("60") + "\r\nX-Forwarded-For:", nil, 400, ""},
		{"disabled", "GET", "/latest/meta-data/", "", func(m *bundle.Metadata) { m.Options.HTTPEndpoint = "disabled" }, 403, ""},
		{"disabled tokens", "PUT", "/latest/api/token", ttl("60"), func(m *bundle.Metadata) { m.Options.HTTPEndpoint = "disabled" }, 403, ""},
		{"no token where one is required", "GET", "/latest/meta-data/", "", func(m *bundle.Metadata) { m.Options.HTTPTokens = "required" }, 401, ""},
		{"an invalid token where none is required", "GET", "/latest/meta-data/", "X-aws-ec2-metadata-token: AQAAA", nil, 401, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.publish(c.options)
			var headers []string
			if c.header != "" {
				headers = strings.Split(c.header, "\r\n")
			}
			resp, body := w.do(c.method, c.target, headers...)
			if resp.StatusCode != c.code {
				t.Fatalf("%s %s = %d, want %d\n%s", c.method, c.target, resp.StatusCode, c.code, body)
			}
			if got := resp.Header.Get("Allow"); got != c.allow {
				t.Errorf("Allow is %q, want %q", got, c.allow)
			}
			if got := resp.Header.Get("Server"); got != "EC2ws" {
				t.Errorf("Server is %q, want EC2ws", got)
			}
			if !resp.Close {
				t.Error("the connection stays open")
			}
			title := fmt.Sprintf("<title>%d - %s</title>", c.code, http.StatusText(c.code))
			switch {
			case c.code == 405 && body != "":
				t.Errorf("405 has a body: %q", body)
			case c.code != 200 && c.code != 405 && !strings.Contains(body, title):
				t.Errorf("page %q has no %s", body, title)
			}
		})
	}
}

func TestHeadersOfAnAnswer(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	get, body := w.do("GET", "/latest/user-data")
	if body != "#!/bin/sh\n\x00\xff\r\n" {
		t.Errorf("user data came as %q", body)
	}
	if got := get.Header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("user data is %s", got)
	}
	head, empty := w.do("HEAD", "/latest/user-data")
	get.Header.Del("Date")
	head.Header.Del("Date")
	if fmt.Sprint(head.Header) != fmt.Sprint(get.Header) || empty != "" || head.ContentLength != get.ContentLength {
		t.Errorf("HEAD says %v, GET %v", head.Header, get.Header)
	}
	leaf, _ := w.do("GET", "/latest/meta-data/instance-id", "X-aws-ec2-metadata-token: "+w.token())
	for name, want := range map[string]string{
		"Content-Type": "text/plain", "Accept-Ranges": "none", "Last-Modified": "Mon, 23 Nov 2026 18:00:05 GMT",
		"Content-Length": strconv.Itoa(len(testID)), ttlHeader: "60",
	} {
		if got := leaf.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestATokenIsGoodForItsInstanceAndTime(t *testing.T) {
	now := time.Now()
	var later atomic.Int64
	w := newWorld(t, func(s *Server) { s.now = func() time.Time { return now.Add(time.Duration(later.Load())) } })
	w.publish(func(m *bundle.Metadata) { m.Options.HTTPTokens = "required" })
	token := w.token()
	if len(token) != 56 || !strings.HasPrefix(token, "AQAAA") {
		t.Errorf("token %q has not the form of EC2's", token)
	}
	header := "X-aws-ec2-metadata-token: " + token
	if resp, body := w.do("GET", "/latest/meta-data/instance-id", header); resp.StatusCode != 200 || body != string(testID) {
		t.Fatalf("with a token: %d %q", resp.StatusCode, body)
	}
	later.Store(int64(58 * time.Second)) // ends are whole seconds
	if resp, _ := w.do("GET", "/latest/meta-data/instance-id", header); resp.StatusCode != 200 {
		t.Errorf("just before its end: %d", resp.StatusCode)
	}
	later.Store(int64(60 * time.Second))
	if resp, _ := w.do("GET", "/latest/meta-data/instance-id", header); resp.StatusCode != 401 {
		t.Errorf("after its end: %d, want 401", resp.StatusCode)
	}
	later.Store(0)
	// The address goes to another instance: the token does not.
	if err := os.RemoveAll(string(w.root.Instance(testID))); err != nil {
		t.Fatal(err)
	}
	if resp, _ := w.do("GET", "/latest/meta-data/instance-id", header); resp.StatusCode != 503 {
		t.Errorf("without an instance: %d, want 503", resp.StatusCode)
	}
	w.publish(func(m *bundle.Metadata) { m.Instance = "i-00000000000000002" })
	if resp, _ := w.do("GET", "/latest/meta-data/instance-id", header); resp.StatusCode != 401 {
		t.Errorf("from the next owner of the address: %d, want 401", resp.StatusCode)
	}
}

func TestTokensSurviveARestartAndNoForgery(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	open := func() *Tokens {
		tokens, err := OpenTokens(path)
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	now := time.Now()
	token := open().Seal(testID, now.Add(time.Hour))
	if left, err := open().Open(token, testID, now); err != nil || left <= 59*time.Minute || left > time.Hour {
		t.Errorf("after a restart: %v, %v", left, err)
	}
	if again := open().Seal(testID, now.Add(time.Hour)); again == token {
		t.Error("two tokens are the same")
	}
	raw, err := base64.URLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(raw) * 8 {
		forged := append([]byte(nil), raw...)
		forged[bit/8] ^= 1 << (bit % 8)
		if _, err := open().Open(base64.URLEncoding.EncodeToString(forged), testID, now); !errors.Is(err, errToken) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokens(path); err == nil {
		t.Error("a key that others can read is taken")
	}
}

func FuzzToken(f *testing.F) {
	tokens := &Tokens{make([]byte, keyBytes)}
	now := time.Unix(1_800_000_000, 0)
	f.Add("")
	f.Add(tokens.Seal("i-2", now.Add(time.Hour)))
	f.Add("AQAAA" + strings.Repeat("=", 51))
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := tokens.Open(token, testID, now); err == nil {
			t.Errorf("%q opens", token)
		}
	})
}

func TestCredentialsAreReadWhenAsked(t *testing.T) {
	w := newWorld(t)
	w.publish(func(m *bundle.Metadata) { m.Profile = &cloud.ProfileRef{ARN: "arn", ID: "AIPA", RoleName: "demo"} })
	path := w.root.Instance(testID).Path("credentials.json")
	if resp, _ := w.do("GET", "/latest/meta-data/iam/security-credentials/demo"); resp.StatusCode != 404 {
		t.Errorf("before they are minted: %d", resp.StatusCode)
	}
	for _, key := range []string{"ASIA1", "ASIA2"} {
		c := bundle.Credentials{Role: "demo", Profile: "AIPA", Code: "Success", AccessKeyID: key, Expiration: time.Now().Add(6 * time.Hour)}
		if err := bundle.Write(path, c, 0o600); err != nil {
			t.Fatal(err)
		}
		if resp, body := w.do("GET", "/latest/meta-data/iam/security-credentials/demo"); resp.StatusCode != 200 || !strings.Contains(body, key) {
			t.Errorf("got %d %s, want %s", resp.StatusCode, body, key)
		}
	}
	if _, body := w.do("GET", "/latest/meta-data/iam/security-credentials/"); body != "demo" {
		t.Errorf("roles are %q, want demo", body)
	}
}

func TestOneCallerCannotTakeAllConnections(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	var idle []net.Conn
	for range maxConnections {
		c, err := net.Dial("tcp4", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /latest HTTP/1.1\r\nX: ") // and never the rest
		idle = append(idle, c)
	}
	// The queue is in order: what comes now is accepted after those.
	if c, err := net.Dial("tcp4", w.addr); err == nil { // or the reset came first
		defer c.Close()
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("one connection too many gets %d bytes, %v; want a reset", n, err)
		}
	}
	other, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp4", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	fmt.Fprint(other, "GET /latest HTTP/1.0\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(other), nil); err != nil || resp.StatusCode != 503 {
		t.Errorf("another caller gets %v, %v; want its 503", resp, err)
	}
	for _, c := range idle {
		c.Close()
	}
}

// All addresses of an instance are one caller, those of its containers among them: with one token, and so many connections.
func TestAnInstanceCannotTakeMoreConnectionsByItsOtherAddresses(t *testing.T) {
	w := newWorld(t)
	w.publish(func(m *bundle.Metadata) {
		m.Interfaces[0].Addresses = append(m.Interfaces[0].Addresses, netip.MustParseAddr("127.0.0.2"))
		m.Interfaces[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("127.0.1.0/28")}
	})
	dial := func(from string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(t.Context(), "tcp4", w.addr)
	}
	token := w.token()
	for _, from := range []string{"127.0.0.2", "127.0.1.15"} {
		c, err := dial(from)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /latest/meta-data/instance-id HTTP/1.0\r\n%s: %s\r\n\r\n", tokenHeader, token)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != string(testID) {
			t.Errorf("%s reads %q, %v", from, body, err)
		}
		c.Close()
	}
	for w.connections() > 0 && t.Context().Err() == nil {
		runtime.Gosched() // the server has yet to see their ends
	}
	for k := range maxConnections {
		c, err := dial(fmt.Sprintf("127.0.1.%d", k%16))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /latest HTTP/1.1\r\nX: ") // and never the rest
	}
	if c, err := dial("127.0.0.2"); err == nil { // or the reset came first
		defer c.Close()
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("one connection too many gets %d bytes, %v; want a reset", n, err)
		}
	}
}

func TestASlowCallerIsCutOff(t *testing.T) {
	w := newWorld(t, func(s *Server) { s.http.ReadHeaderTimeout /= 500 }) // seconds, for guests
	w.publish(nil)
	c, err := net.Dial("tcp4", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(headerTimeout))
	fmt.Fprint(c, "GET /latest HTTP/1.1\r\nX: ")
	if reply, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(string(reply), "200") {
		t.Errorf("half a request gets %q, %v", reply, err)
	}
}

func TestBigHeadersAreRefused(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	if resp, _ := w.do("GET", "/latest", "X-Big: "+strings.Repeat("x", 2*maxHeader)); resp.StatusCode != 431 {
		t.Errorf("got %d, want 431", resp.StatusCode)
	}
}

// Whatever comes, the server answers or hangs up, and lives.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /latest/meta-data/ HTTP/1.1\r\nHost: x\r\n\r\n", "PUT /latest/api/token HTTP/1.0\r\n\r\n", "GET  HTTP/1.1\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01",
	} {
		f.Add([]byte(s))
	}
	w := newWorld(f, func(s *Server) { s.Limit(0) })
	w.publish(nil)
	f.Fuzz(func(t *testing.T, request []byte) {
		w.t = t
		c, err := net.Dial("tcp4", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write(request)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		if resp, body := w.do("GET", "/latest/meta-data/instance-id"); resp.StatusCode != 200 || body != string(testID) {
			t.Errorf("afterwards: %d %q", resp.StatusCode, body)
		}
	})
}
