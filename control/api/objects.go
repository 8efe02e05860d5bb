package api

import (
	"context"
	"crypto/rand"
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// objects sends what is S3's on to the object store, so that one endpoint serves everything. It reads no more of such a
// request than where it belongs: bodies pass as they come, of any size, and whether the signature is right only the
// object store can say, since a signature may cover every chunk of a body.
type objects struct {
	proxy *httputil.ReverseProxy
}

// idle is how long a client of the object store may neither send nor take anything.
const idle = time.Minute

// chunk is what is copied at a time; the store's own buffers are as large.
const chunk = 128 << 10

func newObjects(socket string) *objects {
	return &objects{&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", "objects"
			p.Out.Host = p.In.Host // it is signed; and so is the query, readable or not
			p.Out.URL.RawQuery = p.In.URL.RawQuery
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
			DisableCompression:    true, // an answer's encoding is the object's
			MaxIdleConnsPerHost:   32,
			IdleConnTimeout:       idle,
			ExpectContinueTimeout: idle, // the store says whether it wants the body; no answer is no leave to send it
			WriteBufferSize:       chunk,
			ReadBufferSize:        chunk,
		},
		BufferPool:   &buffers{},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, _ error) { objectStoreAway(w, r) },
	}}
}

// buffers lends the memory that bodies pass through.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, chunk)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

// ofObjects reports whether a request is the object store's: signed for s3, or not signed and at a path where no other
// service is. Paths that begin with a dot are not buckets'.
func ofObjects(r *http.Request) bool {
	if service, _, ok := scope(r); ok {
		return service == "s3"
	}
	return len(r.URL.Path) > 1 && r.URL.Path[0] == '/' && r.URL.Path[1] != '.'
}

// scope returns the service that a request says to be signed for, and the access key. Nothing in it is proved.
func scope(r *http.Request) (service, key string, signed bool) {
	credential := ""
	if _, after, ok := strings.Cut(r.Header.Get("Authorization"), "Credential="); ok {
		credential, _, _ = strings.Cut(after, ",")
		credential, _, _ = strings.Cut(credential, " ")
	} else if _, after, ok := strings.Cut(r.URL.RawQuery, "X-Amz-Credential="); ok {
		credential, _, _ = strings.Cut(after, "&")
		credential, _ = url.QueryUnescape(credential)
	}
	part := strings.Split(credential, "/")
	if len(part) < 5 {
		return "", "", false
	}
	return part[len(part)-2], part[0], true
}

// serveObjects passes a request on and its answer back. The server's deadlines are for requests of a megabyte; here a
// client may take as long as it likes if only something moves.
func (f *Front) serveObjects(w http.ResponseWriter, r *http.Request) {
	start := f.cfg.Now()
	m := &moving{ResponseWriter: w, control: http.NewResponseController(w), status: http.StatusOK}
	_ = m.control.SetReadDeadline(time.Time{}) // a connection that has no deadlines is one of a test
	_ = m.control.SetWriteDeadline(time.Time{})
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context()) // the server looks at its own
		r.Body = &movingBody{ReadCloser: r.Body, control: m.control}
	}
	defer func() { f.recordObjects(r, m.status, start) }()
	if strings.ContainsRune(r.URL.Path, 0) { // no file can be named so
		refuseObject(m, r, http.StatusBadRequest, "InvalidURI", "Couldn't parse the specified URI.")
		return
	}
	f.objects.proxy.ServeHTTP(m, r)
}

// recordObjects counts a request, and writes an audit line if it has changed a bucket. What is done to objects leaves none, as
// at AWS unless somebody asks for it. The line names the key that has signed, which the store has proved.
func (f *Front) recordObjects(r *http.Request, status int, start time.Time) {
	took := f.cfg.Now().Sub(start)
	f.metrics.observe("s3", verb(r.Method), strconv.Itoa(status), took)
	bucket, action := bucketChange(r)
	if action == "" || status >= 300 {
		return
	}
	_, key, _ := scope(r)
	source, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		source = r.RemoteAddr
	}
	err = f.audit.write(auditLine{
		Time: start.UTC(), Service: "s3", Action: action, AccessKey: key, Source: source, Instance: guestOf(r.Context()), Agent: r.UserAgent(),
		Resources: []string{"arn:aws:s3:::" + bucket}, Milliseconds: took.Milliseconds(),
	})
	if err != nil {
		f.cfg.Log.Error("the audit line could not be written", "action", "s3:"+action, "err", err)
	}
}

// bucketChange names what a request does to a bucket itself, in AWS's words as far as they follow a rule; "" if nothing.
func bucketChange(r *http.Request) (bucket, action string) {
	bucket = strings.Trim(r.URL.Path, "/")
	if bucket == "" || strings.Contains(bucket, "/") {
		return "", ""
	}
	what, _, _ := strings.Cut(r.URL.RawQuery, "&")
	what, _, _ = strings.Cut(what, "=")
	if strings.HasPrefix(what, "X-Amz-") || strings.HasPrefix(what, "x-id") {
		what = ""
	}
	if what != "" {
		what = strings.ToUpper(what[:1]) + what[1:]
	}
	switch {
	case r.Method == http.MethodPut && what == "":
		return bucket, "CreateBucket"
	case r.Method == http.MethodPut:
		return bucket, "PutBucket" + what
	case r.Method == http.MethodDelete:
		return bucket, "DeleteBucket" + what
	}
	return "", ""
}

// verb is a method as a label: clients cannot make values.
func verb(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "unknown"
}

// moving is an answer whose every part may take a time of its own.
type moving struct {
	http.ResponseWriter
	control *http.ResponseController
	status  int
}

func (m *moving) Unwrap() http.ResponseWriter { return m.ResponseWriter }

func (m *moving) WriteHeader(status int) {
	if status == http.StatusContinue {
		return // the server says it when the body is first read, which is when the store has said it: not twice
	}
	if status >= 200 { // those before are not the answer
		m.status = status
	}
	m.ResponseWriter.WriteHeader(status)
}

func (m *moving) Write(p []byte) (int, error) {
	_ = m.control.SetWriteDeadline(time.Now().Add(idle))
	return m.ResponseWriter.Write(p)
}

// movingBody is a request's body in the same way. When it has ended nothing is waited for: the server's look for a client
// that went away must not run into a deadline. To close it closes nothing: the server does that when it has answered, and
// one that was not asked for its body would be waited for before.
type movingBody struct {
	io.ReadCloser
	control *http.ResponseController
	closed  atomic.Bool
}

func (b *movingBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	_ = b.control.SetReadDeadline(time.Now().Add(idle))
	n, err := b.ReadCloser.Read(p)
	if err != nil && !b.closed.Load() {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (b *movingBody) Close() error {
	b.closed.Store(true)
	return nil
}

// objectStoreAway says that the request may be repeated.
func objectStoreAway(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Retry-After", "1")
	refuseObject(w, r, http.StatusServiceUnavailable, "ServiceUnavailable", "The object store is starting or away. Try again.")
}

// refuseObject answers in S3's form.
func refuseObject(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	id, err := cloud.NewUUID(rand.Reader)
	if err != nil {
		id = "-"
	}
	body, _ := xml.Marshal(struct {
		XMLName   struct{} `xml:"Error"`
		Code      string
		Message   string
		RequestID string `xml:"RequestId"`
	}{Code: code, Message: message, RequestID: id})
	h := w.Header()
	h.Set("Content-Type", "application/xml")
	h.Set("x-amz-request-id", id)
	h.Set("Connection", "close") // a body that nobody takes is not read to its end
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append([]byte(xml.Header), body...)) // a client that went away is its own affair
	}
}
