package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// api speaks to Systems Manager with a key of the environment.
type api struct {
	endpoint, region, key, secret, token string
	now                                  func() time.Time
}

// fromEnvironment reads what the AWS CLI reads.
func fromEnvironment(env func(string) string) (*api, error) {
	a := &api{
		endpoint: cmp.Or(env("AWS_ENDPOINT_URL_SSM"), env("AWS_ENDPOINT_URL")), region: cmp.Or(env("AWS_REGION"), env("AWS_DEFAULT_REGION")),
		key: env("AWS_ACCESS_KEY_ID"), secret: env("AWS_SECRET_ACCESS_KEY"), token: env("AWS_SESSION_TOKEN"), now: time.Now,
	}
	for name, v := range map[string]string{
		"AWS_ENDPOINT_URL": a.endpoint, "AWS_REGION": a.region, "AWS_ACCESS_KEY_ID": a.key, "AWS_SECRET_ACCESS_KEY": a.secret,
	} {
		if v == "" {
			return nil, fmt.Errorf("%s is not set: eval $(ichiro env), or export it as for the AWS CLI", name)
		}
	}
	return a, nil
}

// request is that of StartSession.
type request struct {
	Target       string
	DocumentName string              `json:",omitempty"`
	Reason       string              `json:",omitempty"`
	Parameters   map[string][]string `json:",omitempty"`
}

// session is the answer of StartSession and ResumeSession.
type session struct{ SessionId, TokenValue, StreamUrl string } //nolint:staticcheck // the names are the API's

// errEnded is the error of a session that cannot be resumed because it has ended.
var errEnded = errors.New("the session has ended")

func (a *api) start(ctx context.Context, r request) (s session, err error) {
	return s, a.call(ctx, "StartSession", r, &s)
}

func (a *api) resume(ctx context.Context, id string) (s session, err error) {
	err = a.call(ctx, "ResumeSession", map[string]string{"SessionId": id}, &s)
	if err == nil && s.TokenValue == "" {
		err = errEnded
	}
	return s, err
}

// terminate ends a session by the API, which its input does not hold up.
func (a *api) terminate(ctx context.Context, id string) error {
	return a.call(ctx, "TerminateSession", map[string]string{"SessionId": id}, &struct{}{})
}

func (a *api) call(ctx context.Context, action string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(a.endpoint, "/")+"/", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call %s: %v", action, err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "AmazonSSM."+action)
	a.sign(r, body)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the rest is what we know
		}
		return fmt.Errorf("call %s at %s: %w", action, a.endpoint, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", action, err)
	}
	if resp.StatusCode == http.StatusOK {
		return json.Unmarshal(answer, out)
	}
	var fault struct {
		Type    string `json:"__type"`
		Message string
	}
	json.Unmarshal(answer, &fault)
	return fmt.Errorf("%s: %s", cmp.Or(fault.Type, resp.Status), cmp.Or(fault.Message, "no message"))
}

// sign signs a request whose path is / and that has no query: signature version 4.
func (a *api) sign(r *http.Request, body []byte) {
	now := a.now().UTC()
	stamp, date := now.Format("20060102T150405Z"), now.Format("20060102")
	r.Header.Set("X-Amz-Date", stamp)
	names := []string{"content-type", "host", "x-amz-date"}
	if a.token != "" {
		r.Header.Set("X-Amz-Security-Token", a.token)
		names = append(names, "x-amz-security-token")
	}
	names = append(names, "x-amz-target") // in order
	var headers strings.Builder
	for _, name := range names {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.URL.Host
		}
		headers.WriteString(name + ":" + value + "\n")
	}
	signed := strings.Join(names, ";")
	sum := sha256.Sum256(body)
	canonical := sha256.Sum256([]byte(strings.Join([]string{r.Method, "/", "", headers.String(), signed, hex.EncodeToString(sum[:])}, "\n")))
	scope := strings.Join([]string{date, a.region, "ssm", "aws4_request"}, "/")
	key := []byte("AWS4" + a.secret)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	text := strings.Join([]string{"AWS4-HMAC-SHA256", stamp, scope, hex.EncodeToString(canonical[:])}, "\n")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+a.key+"/"+scope+", SignedHeaders="+signed+", Signature="+hex.EncodeToString(mac(key, text)))
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}
