package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ichiro-metal/ichiro/control/api/wire"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/enrol"
)

// maxBody holds the largest request: 16 KiB of user data is 22 KiB as base64 and 30 KiB escaped; an SSM
// document 64 KiB; the rest is room for long lists.
const maxBody = 1 << 20

// patience is how long an action may take. Clients give up after 60 seconds.
const patience = 50 * time.Second

// ChannelPath is where data channels are.
const ChannelPath = "/v1/data-channel/"

// A Config is what a Front is made of.
type Config struct {
	Region    string // the one that EC2 and SSM requests must be signed for; "" accepts any
	Services  []Service
	Authority Authority
	Log       *slog.Logger
	Audit     io.Writer               // one JSON line per changing call; nil for none
	Registry  prometheus.Registerer   // nil for none
	Now       func() time.Time        // nil for the clock
	Objects   string                  // socket of the object store; "" for none
	Public    map[string]http.Handler // by path: what anybody may read
	// Registrations answers machines that register through gateways at enrol.Path; nil where none can.
	Registrations http.Handler
	// Channels serves what lies below ChannelPath, which has another way to know who calls; nil for none.
	Channels http.Handler
}

// A Front serves the API. It is an http.Handler; Serve runs it on a listener.
type Front struct {
	cfg     Config
	tables  map[string]*table // by Name
	targets map[string]*table // by TargetPrefix
	order   []*table
	audit   *auditor
	metrics *metrics
	objects *objects // nil for none
}

// New returns a front for the services. It refuses two of one name and two actions of one name.
func New(cfg Config) (*Front, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f := &Front{cfg: cfg, tables: map[string]*table{}, targets: map[string]*table{}, audit: &auditor{w: cfg.Audit}, metrics: newMetrics(cfg.Registry)}
	if cfg.Objects != "" {
		f.objects = newObjects(cfg.Objects)
	}
	for _, s := range cfg.Services {
		t, err := newTable(s)
		if err != nil {
			return nil, err
		}
		if f.tables[s.Name] != nil {
			return nil, fmt.Errorf("service %s is there twice", s.Name)
		}
		f.tables[s.Name] = t
		f.order = append(f.order, t)
		if s.TargetPrefix != "" {
			f.targets[s.TargetPrefix] = t
		}
	}
	return f, nil
}

// A call is one request on its way through the gates.
type call struct {
	front     *Front
	r         *http.Request
	id        string
	start     time.Time
	body      []byte
	signed    sigv4.Request
	claim     sigv4.Claim
	unsigned  bool
	reply     wire.Reply
	table     *table
	action    *Action
	caller    Identity
	resources []string
	dryRun    bool
	reached   bool // the action was known and its caller too: audit it
	remark    *any // what the action adds to its audit line
}

// ServeHTTP answers one request.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if public := f.cfg.Public[r.URL.Path]; public != nil {
		f.public(public, w, r)
		return
	}
	// Before the objects: without a websocket it could be one of a bucket named v1.
	if f.cfg.Channels != nil && r.Header.Get("Upgrade") != "" && strings.HasPrefix(r.URL.Path, ChannelPath) {
		f.cfg.Channels.ServeHTTP(w, r)
		return
	}
	if f.cfg.Registrations != nil && r.URL.Path == enrol.Path {
		f.cfg.Registrations.ServeHTTP(w, r)
		return
	}
	if f.objects != nil && ofObjects(r) {
		f.serveObjects(w, r)
		return
	}
	c := &call{front: f, r: r, start: f.cfg.Now(), reply: wire.Reply{Protocol: f.guess(r)}}
	var err error
	if c.id, err = cloud.NewUUID(rand.Reader); err != nil {
		c.id = "-"
	}
	c.reply.RequestID = c.id
	if !f.atPath(r) {
		http.Error(w, "The API is at /", http.StatusNotFound)
		return
	}
	if atRoot := r.URL.Path == "/" || r.URL.Path == ""; atRoot && r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "The API takes GET and POST", http.StatusMethodNotAllowed)
		return
	}
	out, err := c.guarded(w)
	var bad fault
	if err != nil {
		bad = c.explain(err)
	}
	c.record(bad)
	body, status := []byte(nil), http.StatusOK
	if err == nil {
		body = c.reply.Append(nil, out)
	} else {
		body, status = c.reply.AppendError(nil, bad.code, bad.message, bad.receiver()), bad.status
	}
	h := w.Header()
	if err != nil && c.reply.Protocol == wire.REST {
		h.Set("x-amzn-ErrorType", bad.code)
	}
	h.Set("Content-Type", c.reply.Protocol.ContentType())
	h.Set("x-amzn-RequestId", c.id)
	h.Set("Cache-Control", "no-cache, no-store")
	h.Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is its own affair
}

// public answers at a path that needs no credentials: it is read, and nothing else.
func (f *Front) public(h http.Handler, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "This is only to be read", http.StatusMethodNotAllowed)
		return
	}
	h.ServeHTTP(w, r)
}

// errPanic stands for a panic, which is logged where it is caught.
var errPanic = errors.New("panic")

// guarded runs the gates and turns a panic into an error.
func (c *call) guarded(w http.ResponseWriter) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			c.front.cfg.Log.Error("an action panicked", "request", c.id, "action", c.name(), "panic", p, "stack", string(debug.Stack()))
			out, err = nil, errPanic
		}
	}()
	if err := c.read(w); err != nil {
		return nil, err
	}
	at := reached{c.r.Host, c.r.TLS != nil || c.r.Header.Get("X-Forwarded-Proto") == "https"}
	ctx, cancel := context.WithTimeout(context.WithValue(context.WithValue(c.r.Context(), requestKey, c.id), reachedKey, at), patience)
	defer cancel()
	if err := c.authenticate(ctx); err != nil {
		return nil, err
	}
	in, err := c.decode()
	if err != nil {
		return nil, err
	}
	ctx = context.WithValue(ctx, callerKey, c.caller)
	if err := c.authorize(ctx, in); err != nil {
		return nil, err
	}
	ctx, c.remark = WithRemark(ctx)
	out, err = c.action.call(ctx, in)
	if err == nil && c.dryRun {
		return nil, cloud.Errorf("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	}
	return out, err
}

// read takes the body, finds the claim and with it the service.
func (c *call) read(w http.ResponseWriter) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, c.r.Body, maxBody))
	if err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return cloud.Errorf("RequestEntityTooLarge", "The request is larger than %d bytes", maxBody)
		}
		return &wire.Error{Kind: wire.Malformed, Reason: "the body ended too early"}
	}
	c.body = body
	c.signed = sigv4.Request{
		Method: c.r.Method, Path: c.r.URL.EscapedPath(), RawQuery: c.r.URL.RawQuery,
		Host: c.r.Host, Header: c.r.Header, Body: body,
	}
	claim, err := sigv4.Parse(c.signed)
	c.claim, c.unsigned = claim, errors.Is(err, sigv4.ErrMissing)
	c.table = c.service()
	if c.table != nil {
		c.reply.Protocol, c.reply.Namespace = c.table.Protocol, c.table.Namespace
	}
	switch {
	case err != nil && !c.unsigned:
		return err
	case c.table == nil && c.unsigned:
		return sigv4.ErrMissing
	case c.table == nil:
		return cloud.Errorf("InvalidAction", "The service %.60q is not served here", claim.Service)
	}
	target, _, _ := strings.Cut(c.r.Header.Get("X-Amz-Target"), ".")
	if c.table.TargetPrefix != target {
		return cloud.Errorf("InvalidAction", "The request is signed for %s but X-Amz-Target names another service", c.table.Name)
	}
	return nil
}

// service returns the table that the signature's scope names or, without one, that the request's form suggests.
func (c *call) service() *table {
	if c.claim.Service != "" {
		return c.front.tables[c.claim.Service]
	}
	if target := c.r.Header.Get("X-Amz-Target"); target != "" {
		prefix, _, _ := strings.Cut(target, ".")
		return c.front.targets[prefix]
	}
	form := string(c.body) + "&" + c.r.URL.RawQuery
	for _, t := range c.front.order {
		if t.Version != "" && strings.Contains(form, "Version="+t.Version) {
			return t
		}
	}
	return nil
}

func (c *call) authenticate(ctx context.Context) error {
	if c.unsigned {
		return nil // decode knows whether the action allows it
	}
	if region := c.front.cfg.Region; region != "" && c.claim.Region != region && c.table.Protocol != wire.Query {
		code := authCode(c.table.Protocol, sigv4.ErrMismatch)
		return cloud.Errorf(code, "Credential should be scoped to the region %s, not %.60q: set the client's region", region, c.claim.Region)
	}
	id, key, err := c.front.cfg.Authority.Authenticate(ctx, Credential{
		AccessKeyID: c.claim.AccessKeyID, SessionToken: c.claim.SessionToken,
		Date: c.claim.Date, Region: c.claim.Region, Service: c.claim.Service,
	})
	if err != nil {
		return err
	}
	if err := c.claim.Verify(c.signed, key, c.front.cfg.Now()); err != nil {
		return err
	}
	c.caller = id
	return nil
}

// decode finds the action and reads its parameters.
func (c *call) decode() (any, error) {
	var form *wire.Form
	var apart map[string]string
	var err error
	name := ""
	switch c.table.Protocol {
	case wire.JSON:
		_, name, _ = strings.Cut(c.r.Header.Get("X-Amz-Target"), ".")
	case wire.REST:
		if name, apart, err = c.table.routed(c.r); err != nil {
			return nil, err
		}
	default:
		if form, err = wire.ParseForm(string(c.body) + "&" + unsignedQuery(c.r.URL.RawQuery)); err != nil {
			return nil, err
		}
		name = form.Get("Action")
		if v := form.Get("Version"); v != "" && v != c.table.Version {
			return nil, cloud.Errorf("NoSuchVersion", "The version %.40q is not served: use %s", v, c.table.Version)
		}
		form.Drop("Action", "Version")
	}
	c.action = c.table.actions[name]
	switch {
	case c.unsigned && (c.action == nil || !c.action.unsigned):
		return nil, sigv4.ErrMissing
	case name == "" && c.table.Protocol == wire.REST:
		return nil, c.noAction(fmt.Sprintf("There is no action at %.8q %.80q", c.r.Method, c.r.URL.Path))
	case name == "":
		return nil, c.noAction("The request names no action")
	case c.action == nil && c.table.known[name]:
		return nil, c.noAction(fmt.Sprintf("The action %s is not built yet in this version of ichiro", name))
	case c.action == nil:
		return nil, c.noAction(fmt.Sprintf("The action %.80q is not valid for this web service.", name))
	}
	c.reply.Action = name
	c.reached = true
	in := c.action.newIn()
	if form == nil {
		return in, wire.DecodeREST(c.body, apart, in, c.table.Ignored[name])
	}
	err = form.Decode(c.table.Protocol, in, c.table.Ignored[name])
	c.dryRun = err == nil && c.table.Protocol == wire.EC2 && dryRun(in)
	return in, err
}

// noAction is an action that is not there: never a 5xx, which clients would repeat for minutes.
func (c *call) noAction(message string) error {
	if c.table.Protocol == wire.JSON || c.table.Protocol == wire.REST {
		return cloud.Error{Code: "UnknownOperationException", Message: message}
	}
	return cloud.Error{Code: "InvalidAction", Message: message}
}

func (c *call) authorize(ctx context.Context, in any) error {
	c.resources = c.action.resourcesOf(ctx, in, c.arn)
	if c.unsigned {
		return nil
	}
	for _, resource := range c.resources {
		err := c.front.cfg.Authority.Authorize(ctx, c.caller, c.table.Name+":"+c.action.Name, resource)
		if errors.Is(err, ErrDenied) {
			return cloud.Errorf(authCode(c.table.Protocol, ErrDenied), "User: %s is not authorized to perform: %s:%s on resource: %s",
				c.caller.ARN, c.table.Name, c.action.Name, resource)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// arn completes the last part of a resource's name.
func (c *call) arn(r string) string {
	return ARN(c.table.Name, c.front.cfg.Region, c.caller.Account, r)
}

// ARN completes the last part of a resource's name, such as instance/i-123, which is the service's or, written ec2:instance/i-123,
// another's. What is an ARN already, or *, stays.
func ARN(service, region, account, r string) string {
	if r == "*" || strings.HasPrefix(r, "arn:") {
		return r
	}
	if kind, _, _ := strings.Cut(r, "/"); strings.Contains(kind, ":") {
		service, r, _ = strings.Cut(r, ":")
	}
	if service == "iam" { // identities belong to no region
		region = ""
	}
	if service == "ec2" && strings.HasPrefix(r, "image/") || service == "ssm" && strings.HasPrefix(r, "document/AWS-") {
		account = "" // AWS writes the ARNs of what may be everybody's without an account
	}
	return strings.Join([]string{"arn", "aws", service, region, account, r}, ":")
}

// explain turns an error into what the client sees, and logs it if it is a defect of ours.
func (c *call) explain(err error) fault {
	p := c.reply.Protocol
	if errors.Is(err, errPanic) {
		return fault{"InternalFailure", defect(p).message, http.StatusInternalServerError}
	}
	f, ok := translate(p, err)
	switch {
	case ok:
	case c.r.Context().Err() != nil: // the client went away
	case errors.Is(err, context.DeadlineExceeded):
		f = refuse(p, "Unavailable", "The request took too long. Try again")
		c.front.cfg.Log.Warn("an action took too long", "request", c.id, "action", c.name())
	default:
		c.front.cfg.Log.Error("an action did not succeed", "request", c.id, "action", c.name(), "err", err)
	}
	if f.code == "RequestEntityTooLarge" {
		f.status = http.StatusRequestEntityTooLarge
	}
	return f
}

// record counts the call and writes its audit line.
func (c *call) record(bad fault) {
	now := c.front.cfg.Now()
	service, action := "unknown", "unknown"
	if c.table != nil {
		service = c.table.Name
	}
	if c.action != nil {
		action = c.action.Name
	}
	c.front.metrics.observe(service, action, cmp.Or(bad.code, "OK"), now.Sub(c.start))
	if !c.reached || c.action.readOnly {
		return
	}
	var detail any
	if c.remark != nil {
		detail = *c.remark
	}
	source, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		source = c.r.RemoteAddr
	}
	err = c.front.audit.write(auditLine{
		Time: c.start.UTC(), Request: c.id, Service: service, Action: action,
		Account: c.caller.Account, Caller: c.caller.ARN, AccessKey: c.caller.AccessKeyID,
		Source: source, Instance: guestOf(c.r.Context()), Agent: c.r.UserAgent(), Resources: c.resources, DryRun: c.dryRun,
		Code: bad.code, Milliseconds: now.Sub(c.start).Milliseconds(), Detail: detail,
	})
	if err != nil {
		c.front.cfg.Log.Error("the audit line could not be written", "request", c.id, "action", c.name(), "err", err)
	}
}

func (c *call) name() string {
	if c.table == nil || c.action == nil {
		return "unknown"
	}
	return c.table.Name + ":" + c.action.Name
}

// guess is the protocol of an answer to a request whose service is not known yet.
func (f *Front) guess(r *http.Request) wire.Protocol {
	service, _, _ := scope(r)
	if t := f.tables[service]; t != nil {
		return t.Protocol
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-amz-json") || r.Header.Get("X-Amz-Target") != "" {
		return wire.JSON
	}
	return wire.EC2
}

// unsignedQuery returns a query string without the parameters of a presigned signature.
func unsignedQuery(raw string) string {
	var keep []string
	for p := range strings.SplitSeq(raw, "&") {
		k, _, _ := strings.Cut(p, "=")
		if name, err := url.QueryUnescape(k); err != nil || !strings.HasPrefix(name, "X-Amz-") {
			keep = append(keep, p)
		}
	}
	return strings.Join(keep, "&")
}
