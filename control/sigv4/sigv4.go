// Package sigv4 decides whether a request was signed by the holder of a secret: AWS Signature Version 4,
// in the Authorization header or presigned in the query string.
//
// A request is parsed to a Claim (who says he signed it, when, for which service), the caller looks up
// the key for that claim, and Verify compares. What matters is what was signed: the host, every x-amz-
// header present and the body's hash must be, or the claim is refused, so that nothing that we read can
// have been changed on the way. Keys are derived per day, region and service (Key), which is all that a
// verifier needs to hold. Sign is the other side, for tests and our own clients.
//
// It is a decider: it reads no clock and looks up no key.
package sigv4

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What can be wrong with a signature.
var (
	ErrMissing   = errors.New("the request is not signed")
	ErrMalformed = errors.New("the signature is incomplete")
	ErrUnsigned  = errors.New("the signature does not cover the host and all x-amz- headers")
	ErrSkew      = errors.New("the request's time differs from the server's by more than five minutes")
	ErrExpired   = errors.New("the presigned request has expired")
	ErrMismatch  = errors.New("the signature does not match")
)

// MaxSkew is how far a client's clock may be off, as at AWS.
const MaxSkew = 5 * time.Minute

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	stamp      = "20060102T150405Z"
	maxExpires = 7 * 24 * 60 * 60 // seconds, of a presigned request

	defaultExpires = "900" // clients presign STS calls without saying how long
)

// A Request is what of an HTTP request is signed.
type Request struct {
	Method   string
	Path     string // escaped, as sent
	RawQuery string
	Host     string
	Header   map[string][]string
	Body     []byte
}

// A Claim is who a request says has signed it. Nothing in it is proved before Verify.
type Claim struct {
	AccessKeyID   string
	Date          string // of the scope: 20060102
	Region        string
	Service       string
	SessionToken  string
	Time          time.Time
	SignedHeaders []string
	Signature     string
	Presigned     bool
	Expires       time.Duration // of a presigned request
}

// Parse returns the claim of a request: ErrMissing if there is none, ErrMalformed if it cannot be read.
func Parse(r Request) (Claim, error) {
	if auth := r.header("authorization"); auth != "" {
		return parseHeader(r, auth)
	}
	if strings.Contains(r.RawQuery, "X-Amz-") {
		return parseQuery(r)
	}
	return Claim{}, ErrMissing
}

func parseHeader(r Request, auth string) (Claim, error) {
	rest, ok := strings.CutPrefix(auth, algorithm)
	if !ok || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
		return Claim{}, ErrMalformed
	}
	part := map[string]string{}
	for p := range strings.SplitSeq(rest, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(p), "=")
		if _, twice := part[k]; !ok || twice {
			return Claim{}, ErrMalformed
		}
		part[k] = v
	}
	at := r.header("x-amz-date")
	when, err := time.Parse(stamp, at)
	if at == "" {
		when, err = time.Parse(time.RFC1123, r.header("date"))
	}
	if err != nil {
		return Claim{}, ErrMalformed
	}
	c := Claim{Time: when.UTC(), SessionToken: r.header("x-amz-security-token"), Signature: part["Signature"]}
	return c, c.fill(part["Credential"], part["SignedHeaders"])
}

func parseQuery(r Request) (Claim, error) {
	q, err := url.ParseQuery(r.RawQuery)
	if err != nil {
		return Claim{}, ErrMalformed
	}
	for _, name := range []string{"Algorithm", "Credential", "Date", "SignedHeaders", "Signature"} {
		if len(q["X-Amz-"+name]) != 1 {
			return Claim{}, ErrMalformed
		}
	}
	when, err := time.Parse(stamp, q.Get("X-Amz-Date"))
	if err != nil || q.Get("X-Amz-Algorithm") != algorithm {
		return Claim{}, ErrMalformed
	}
	seconds, err := strconv.Atoi(cmp.Or(q.Get("X-Amz-Expires"), defaultExpires))
	if err != nil || seconds < 1 || seconds > maxExpires {
		return Claim{}, ErrMalformed
	}
	c := Claim{
		Time: when.UTC(), Presigned: true, Expires: time.Duration(seconds) * time.Second,
		SessionToken: q.Get("X-Amz-Security-Token"), Signature: q.Get("X-Amz-Signature"),
	}
	return c, c.fill(q.Get("X-Amz-Credential"), q.Get("X-Amz-SignedHeaders"))
}

func (c *Claim) fill(credential, signed string) error {
	p := strings.Split(credential, "/")
	if len(p) != 5 || slices.Contains(p, "") || p[4] != terminator || signed == "" || len(c.Signature) != 2*sha256.Size {
		return ErrMalformed
	}
	c.AccessKeyID, c.Date, c.Region, c.Service = p[0], p[1], p[2], p[3]
	c.SignedHeaders = strings.Split(signed, ";")
	if !slices.IsSorted(c.SignedHeaders) || c.Time.Format("20060102") != c.Date {
		return ErrMalformed
	}
	return nil
}

// Verify reports why the claim does not hold for the request at the time now, given the key for its date,
// region and service; nil if it holds. The comparison takes the same time for all wrong signatures.
func (c Claim) Verify(r Request, key []byte, now time.Time) error {
	if err := c.covers(r); err != nil {
		return err
	}
	hash := sha256.Sum256(r.Body)
	payload := hex.EncodeToString(hash[:])
	if declared := r.header("x-amz-content-sha256"); declared != "" && declared != payload {
		return ErrMismatch // UNSIGNED-PAYLOAD too: no service here takes a body that nobody vouches for
	}
	want := c.signature(r, payload, key)
	if !hmac.Equal([]byte(want), []byte(c.Signature)) {
		return ErrMismatch
	}
	switch { // only now is the time more than a claim
	case now.Sub(c.Time) < -MaxSkew:
		return ErrSkew
	case c.Presigned && now.Sub(c.Time) > c.Expires:
		return ErrExpired
	case !c.Presigned && now.Sub(c.Time) > MaxSkew:
		return ErrSkew
	}
	return nil
}

// covers checks that all we read of the request's head was signed.
func (c Claim) covers(r Request) error {
	if !slices.Contains(c.SignedHeaders, "host") {
		return ErrUnsigned
	}
	for name := range r.Header {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-amz-") && !slices.Contains(c.SignedHeaders, name) {
			return ErrUnsigned
		}
	}
	return nil
}

func (c Claim) signature(r Request, payload string, key []byte) string {
	canonical := sha256.Sum256([]byte(r.canonical(c.SignedHeaders, payload)))
	toSign := strings.Join([]string{
		algorithm, c.Time.Format(stamp), strings.Join([]string{c.Date, c.Region, c.Service, terminator}, "/"), hex.EncodeToString(canonical[:]),
	}, "\n")
	return hex.EncodeToString(mac(key, toSign))
}

// canonical returns the canonical request.
func (r Request) canonical(signed []string, payload string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n" + escapePath(r.Path) + "\n" + canonicalQuery(r.RawQuery) + "\n")
	for _, name := range signed {
		b.WriteString(name + ":")
		if name == "host" {
			b.WriteString(r.Host)
		} else {
			b.WriteString(r.header(name))
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + payload)
	return b.String()
}

// header returns the canonical value of a header: values joined, outer spaces cut, inner ones single.
func (r Request) header(name string) string {
	var keys []string
	for k := range r.Header {
		if strings.EqualFold(k, name) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var vals []string
	for _, k := range keys {
		for _, v := range r.Header[k] {
			vals = append(vals, strings.Join(strings.Fields(v), " "))
		}
	}
	return strings.Join(vals, ",")
}

// canonicalQuery sorts and escapes the query, without the signature itself.
func canonicalQuery(raw string) string {
	if raw == "" {
		return ""
	}
	type pair struct{ k, v string }
	var pairs []pair
	for p := range strings.SplitSeq(raw, "&") {
		if p == "" {
			continue
		}
		k, v, _ := strings.Cut(p, "=")
		k, v = escape(unescape(k)), escape(unescape(v))
		if k != "X-Amz-Signature" {
			pairs = append(pairs, pair{k, v})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Or(cmp.Compare(a.k, b.k), cmp.Compare(a.v, b.v)) })
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.k + "=" + p.v)
	}
	return b.String()
}

// unescape returns s as it is when it is not properly escaped: then no signature will match.
func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// escapePath escapes an already escaped path once more, as all services but S3 ask for.
func escapePath(p string) string {
	if p == "" {
		return "/"
	}
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i] = escape(s)
	}
	return strings.Join(segments, "/")
}

// escape percent-encodes all but RFC 3986's unreserved characters.
func escape(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

// Key derives the key that signs for one day, region and service.
func Key(secret, date, region, service string) []byte {
	k := mac([]byte("AWS4"+secret), date)
	return mac(mac(mac(k, region), service), terminator)
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}

// A Signer signs requests for one service in one region.
type Signer struct {
	AccessKeyID, Secret, SessionToken string
	Region, Service                   string
}

// Sign adds the headers that sign the request at the time now. It covers the host, the content type and
// all x-amz- headers, and replaces an earlier signature. A body's hash that is declared already is taken for it.
func (s Signer) Sign(r Request, now time.Time) {
	now = now.UTC()
	set := func(name, value string) { r.Header[name] = []string{value} }
	set("X-Amz-Date", now.Format(stamp))
	if s.SessionToken != "" {
		set("X-Amz-Security-Token", s.SessionToken)
	}
	delete(r.Header, "Authorization")
	signed := []string{"host"}
	for name := range r.Header {
		if name = strings.ToLower(name); name == "content-type" || strings.HasPrefix(name, "x-amz-") {
			signed = append(signed, name)
		}
	}
	slices.Sort(signed)
	payload := r.header("x-amz-content-sha256")
	if payload == "" {
		hash := sha256.Sum256(r.Body)
		payload = hex.EncodeToString(hash[:])
	}
	c := Claim{Time: now, Date: now.Format("20060102"), Region: s.Region, Service: s.Service, SignedHeaders: slices.Compact(signed)}
	sig := c.signature(r, payload, Key(s.Secret, c.Date, c.Region, c.Service))
	var b bytes.Buffer
	b.WriteString(algorithm + " Credential=" + strings.Join([]string{s.AccessKeyID, c.Date, c.Region, c.Service, terminator}, "/"))
	b.WriteString(", SignedHeaders=" + strings.Join(c.SignedHeaders, ";") + ", Signature=" + sig)
	set("Authorization", b.String())
}
