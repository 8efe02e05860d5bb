package sigv4_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/ichiro-metal/ichiro/control/sigv4"
)

const secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// A shot is one request of a test: how it is made and what happens to it after it was signed.
type shot struct {
	name    string
	method  string
	url     string
	body    string
	header  map[string]string
	token   string
	presign bool
	tamper  func(*sigv4.Request)
	at      time.Duration // of the verification, after the signing
	service string        // of the verifier's key
	want    error
}

func (s shot) request(t *testing.T) *http.Request {
	t.Helper()
	url := s.url
	if url == "" {
		url = "http://127.0.0.1:8773/"
	}
	r, err := http.NewRequest(s.method, url, strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range s.header {
		r.Header.Set(k, v)
	}
	creds := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: secret, SessionToken: s.token}
	sum := sha256.Sum256([]byte(s.body))
	signer := v4.NewSigner()
	if !s.presign {
		if err := signer.SignHTTP(t.Context(), creds, r, hex.EncodeToString(sum[:]), "ec2", "ichiro-1", now); err != nil {
			t.Fatal(err)
		}
		return r
	}
	q := r.URL.Query()
	q.Set("X-Amz-Expires", "900")
	r.URL.RawQuery = q.Encode()
	signed, _, err := signer.PresignHTTP(t.Context(), creds, r, hex.EncodeToString(sum[:]), "ec2", "ichiro-1", now)
	if err != nil {
		t.Fatal(err)
	}
	r, err = http.NewRequest(s.method, signed, strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// seen sends the request over a socket and returns it as the server sees it.
func seen(t *testing.T, r *http.Request) sigv4.Request {
	t.Helper()
	var got sigv4.Request
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = sigv4.Request{Method: r.Method, Path: r.URL.EscapedPath(), RawQuery: r.URL.RawQuery, Host: r.Host, Header: r.Header, Body: body}
	}))
	defer srv.Close()
	r.Host = r.URL.Host
	r.URL.Host = strings.TrimPrefix(srv.URL, "http://")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return got
}

func verify(r sigv4.Request, service string, at time.Time) error {
	c, err := sigv4.Parse(r)
	if err != nil {
		return err
	}
	return c.Verify(r, sigv4.Key(secret, c.Date, "ichiro-1", service), at)
}

func TestRequestsSignedByTheSDK(t *testing.T) {
	form := map[string]string{"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
	json := map[string]string{"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.SendCommand"}
	body := "Action=RunInstances&UserData=IyEvYmluL3No%0A"
	shots := []shot{
		{name: "a form is accepted", method: "POST", body: body, header: form},
		{name: "a query string is accepted", method: "GET", url: "http://h/?b=2&a=1&a=%20x%2F~*&c=&Action=Describe%2BX&empty"},
		{name: "a path is accepted", method: "GET", url: "http://h/a%20b//c%2Fd/é"},
		{name: "a header with inner spaces is accepted", method: "POST", body: body, header: map[string]string{"X-Amz-Note": "  a   b  "}},
		{name: "JSON is accepted", method: "POST", body: "{}", header: json},
		{name: "a session is accepted", method: "POST", body: body, header: form, token: "to/ken+="},
		{name: "a clock four minutes behind is accepted", method: "POST", body: body, at: 4 * time.Minute},
		{name: "a clock four minutes ahead is accepted", method: "POST", body: body, at: -4 * time.Minute},
		{name: "a clock six minutes behind is refused", method: "POST", body: body, at: 6 * time.Minute, want: sigv4.ErrSkew},
		{name: "a clock six minutes ahead is refused", method: "POST", body: body, at: -6 * time.Minute, want: sigv4.ErrSkew},
		{name: "another service is refused", method: "POST", body: body, service: "ssm", want: sigv4.ErrMismatch},
		{name: "a changed body is refused", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Body = bytes.Replace(r.Body, []byte("Run"), []byte("Ran"), 1) }, want: sigv4.ErrMismatch},
		{name: "a longer body is refused", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Body = append(r.Body, "&A=b"...) }, want: sigv4.ErrMismatch},
		{name: "a changed method is refused", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Method = "GET" }, want: sigv4.ErrMismatch},
		{name: "a changed host is refused", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Host = "elsewhere" }, want: sigv4.ErrMismatch},
		{name: "a changed path is refused", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Path = "/x" }, want: sigv4.ErrMismatch},
		{name: "an added query is refused", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.RawQuery = "DryRun=false" }, want: sigv4.ErrMismatch},
		{name: "a changed target is refused", method: "POST", body: "{}", header: json, tamper: func(r *sigv4.Request) { r.Header["X-Amz-Target"] = []string{"AmazonSSM.DeleteDocument"} }, want: sigv4.ErrMismatch},
		{name: "an added target is refused", method: "POST", body: "{}", tamper: func(r *sigv4.Request) { r.Header["X-Amz-Target"] = []string{"AmazonSSM.DeleteDocument"} }, want: sigv4.ErrUnsigned},
		{name: "an added token is refused", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Header["X-Amz-Security-Token"] = []string{"x"} }, want: sigv4.ErrUnsigned},
		{name: "a changed date is refused", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Header["X-Amz-Date"] = []string{"20261123T120100Z"} }, want: sigv4.ErrMismatch},
		{name: "another day's scope is malformed", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Header["X-Amz-Date"] = []string{"20261124T120000Z"} }, want: sigv4.ErrMalformed},
		{name: "a declared hash that is not the body's is refused", method: "POST", body: body, header: map[string]string{"X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD"}, want: sigv4.ErrMismatch},
		{name: "no signature is missing", method: "POST", body: body, tamper: func(r *sigv4.Request) { delete(r.Header, "Authorization") }, want: sigv4.ErrMissing},
		{name: "half a signature is malformed", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Header["Authorization"] = []string{"AWS4-HMAC-SHA256 Credential=AKID"} }, want: sigv4.ErrMalformed},
		{name: "another algorithm is malformed", method: "POST", body: body, tamper: func(r *sigv4.Request) { r.Header["Authorization"] = []string{"AWS4-HMAC-SHA257 x"} }, want: sigv4.ErrMalformed},
		{name: "a presigned request is accepted", method: "GET", url: "http://h/?Action=GetCallerIdentity&Version=2011-06-15", presign: true, at: 10 * time.Minute},
		{name: "a presigned session is accepted", method: "GET", url: "http://h/?Action=GetCallerIdentity", presign: true, token: "a+b/c="},
		{name: "an old presigned request is refused", method: "GET", url: "http://h/?Action=GetCallerIdentity", presign: true, at: 16 * time.Minute, want: sigv4.ErrExpired},
		{name: "a changed presigned request is refused", method: "GET", url: "http://h/?Action=GetCallerIdentity", presign: true, tamper: func(r *sigv4.Request) { r.RawQuery += "&Action=DeleteUser" }, want: sigv4.ErrMismatch},
		{name: "a lengthened presigned request is refused", method: "GET", url: "http://h/?Action=GetCallerIdentity", presign: true, tamper: func(r *sigv4.Request) {
			r.RawQuery = strings.Replace(r.RawQuery, "X-Amz-Expires=900", "X-Amz-Expires=9000", 1)
		}, want: sigv4.ErrMismatch},
	}
	for _, s := range shots {
		t.Run(s.name, func(t *testing.T) {
			r := seen(t, s.request(t))
			if s.tamper != nil {
				s.tamper(&r)
			}
			service := s.service
			if service == "" {
				service = "ec2"
			}
			if err := verify(r, service, now.Add(s.at)); !errors.Is(err, s.want) {
				t.Errorf("got %v, want %v", err, s.want)
			}
		})
	}
}

func TestClaimNamesWhoSigned(t *testing.T) {
	r := seen(t, shot{method: "POST", token: "tok"}.request(t))
	c, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.AccessKeyID, c.Date, c.Region, c.Service, c.SessionToken}
	want := []string{"AKIDEXAMPLE", "20261123", "ichiro-1", "ec2", "tok"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}

func TestSignIsVerified(t *testing.T) {
	r := sigv4.Request{Method: "POST", Path: "/", Host: "h:1", Body: []byte("A=b"), Header: map[string][]string{"Content-Type": {"x"}, "X-Amz-Target": {"y"}, "User-Agent": {"z"}}}
	sigv4.Signer{AccessKeyID: "A", Secret: secret, SessionToken: "s", Region: "ichiro-1", Service: "ec2"}.Sign(r, now)
	if err := verify(r, "ec2", now); err != nil {
		t.Error(err)
	}
	r.Header["User-Agent"] = []string{"a proxy may change it"}
	if err := verify(r, "ec2", now); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=A/20261123/r/ec2/aws4_request, SignedHeaders=host, Signature="+strings.Repeat("0", 64), "a=b&%zz", "20261123T120000Z", "/")
	f.Add("", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=1", "", "")
	f.Fuzz(func(t *testing.T, auth, query, date, path string) {
		r := sigv4.Request{Method: "GET", Path: path, RawQuery: query, Host: "h", Header: map[string][]string{"Authorization": {auth}, "X-Amz-Date": {date}}}
		c, err := sigv4.Parse(r)
		if err != nil {
			return
		}
		if err := c.Verify(r, []byte("key nobody has"), now); err == nil {
			t.Errorf("verified %q", auth)
		}
	})
}
