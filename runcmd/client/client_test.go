package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

func TestSignatureIsTheStockClients(t *testing.T) {
	now := time.Date(2026, 11, 29, 9, 0, 0, 0, time.UTC)
	for name, token := range map[string]string{"a key": "", "a role": "TOKEN"} {
		a := &api{endpoint: "http://127.0.0.1:8773", region: "ichiro-1", key: "AKID", secret: "SECRET", token: token, now: func() time.Time { return now }}
		body := []byte(`{"Target":"i-1"}`)
		request := func() *http.Request {
			r, err := http.NewRequest(http.MethodPost, a.endpoint+"/", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = -1 // the stock signer would sign it too
			r.Header.Set("Content-Type", "application/x-amz-json-1.1")
			r.Header.Set("X-Amz-Target", "AmazonSSM.StartSession")
			return r
		}
		ours, theirs := request(), request()
		a.sign(ours, body)
		sum := sha256.Sum256(body)
		err := v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET", SessionToken: token}, theirs, hex.EncodeToString(sum[:]), "ssm", "ichiro-1", now)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); got != want {
			t.Errorf("%s: got  %s\nwant %s", name, got, want)
		}
	}
}

func TestEscape(t *testing.T) {
	for name, c := range map[string]struct {
		in  []string
		out string
		end bool
	}{
		"nothing special":                   {[]string{"ls\r"}, "ls\r", false},
		"the end at the beginning":          {[]string{"~."}, "", true},
		"the end on a new line":             {[]string{"ls\r~."}, "ls\r", true},
		"in two pieces":                     {[]string{"ls\r~", ".x"}, "ls\r", true},
		"not within a line":                 {[]string{"a~.b"}, "a~.b", false},
		"a tilde that is meant":             {[]string{"~~.\r"}, "~.\r", false},
		"a home":                            {[]string{"~/x\r"}, "~/x\r", false},
		"a tilde, and a new line behind it": {[]string{"~\r~."}, "~\r", true},
	} {
		e := escape{line: true}
		var out strings.Builder
		end := false
		for _, in := range c.in {
			b, stop := e.filter([]byte(in))
			out.Write(b)
			end = end || stop
		}
		if out.String() != c.out || end != c.end {
			t.Errorf("%s: got %q, %v, want %q, %v", name, out.String(), end, c.out, c.end)
		}
	}
}

func TestRequests(t *testing.T) {
	_, got, err := forwardRequest("i-1", "8080:db.internal:5432", "")
	want := request{Target: "i-1", DocumentName: "AWS-StartPortForwardingSessionToRemoteHost", Parameters: map[string][]string{"host": {"db.internal"}, "portNumber": {"5432"}, "localPortNumber": {"8080"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	_, got, err = forwardRequest("i-1", "8080:[fd00::1]:80", "")
	want.Parameters = map[string][]string{"host": {"fd00::1"}, "portNumber": {"80"}, "localPortNumber": {"8080"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, spec := range []string{"", "80", "1:2:3:4", "1:[fd00::1]", "1:[fd00::1:80", "1::80"} {
		if _, _, err := forwardRequest("i-1", spec, ""); err == nil {
			t.Errorf("%q was understood", spec)
		}
	}
	for terminal, name := range map[bool]string{true: "AWS-StartInteractiveCommand", false: "AWS-StartNonInteractiveCommand"} {
		if got := shellRequest("i-1", []string{"echo", "it's; rm"}, terminal, ""); got.Parameters["command"][0] != `'echo' 'it'\''s; rm'` || got.DocumentName != name {
			t.Errorf("got %q of %s, want %s", got.Parameters, got.DocumentName, name)
		}
		if got := shellRequest("i-1", nil, terminal, ""); got.DocumentName != "" {
			t.Errorf("a shell is asked for by %s", got.DocumentName)
		}
	}
}
