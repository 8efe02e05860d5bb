package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/iamapi/private"
	"github.com/versity/versitygw/s3err"
)

// authority knows who signs and what they may do: by versitygw's client of the control plane's door, and by a question of its
// own where that client knows too few answers.
type authority struct {
	*auth.IAMServiceStandalone
	door *http.Client
}

var (
	_ auth.SigningKeyProvider = (*authority)(nil)
	_ auth.PolicyEvaluator    = (*authority)(nil)
	_ auth.PrincipalResolver  = (*authority)(nil)
	_ auth.FixedBucketOwner   = (*authority)(nil)
)

// newAuthority returns the authority at a door that listens.
func newAuthority(owner auth.Account, door, region string) (*authority, error) {
	client, err := auth.NewIAMServiceStandalone(owner, auth.IAMServiceStandaloneConfig{Endpoint: door, Region: region})
	if err != nil {
		return nil, fmt.Errorf("ask the control plane: %v", err)
	}
	return &authority{client, &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", door)
		},
	}}}, nil
}

// Errors that S3 has and versitygw has not.
var (
	errExpired = s3err.APIError{Code: "ExpiredToken", Description: "The provided token has expired.", HTTPStatusCode: http.StatusBadRequest}
	errAway    = s3err.APIError{Code: "ServiceUnavailable", Description: "The control plane does not answer. Try again.", HTTPStatusCode: http.StatusServiceUnavailable}
)

// DeriveSigningKey returns the key that verifies the caller's signatures, and who they are. The account's root passes all
// policies, so that nobody is locked out of a bucket for good.
func (a *authority) DeriveSigningKey(access, token, date, region, service string) ([]byte, auth.Account, error) {
	var key private.DeriveSigningKeyResponse
	err := a.ask(private.DerivePath, private.DeriveSigningKeyRequest{
		AccessKeyID: access, SessionToken: token, Date: date, Region: region, Service: service,
	}, &key)
	if err != nil {
		return nil, auth.Account{}, err
	}
	who := auth.Account{
		Access: access, Role: auth.RoleUser, SessionToken: token, IsSession: token != "", Arn: key.PrincipalArn, RoleArn: key.RoleArn,
	}
	if strings.HasSuffix(key.PrincipalArn, ":root") {
		who.Role = auth.RoleAdmin
	}
	return key.DerivedKey, who, nil
}

func (a *authority) ask(route string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	r, err := http.NewRequest(http.MethodPost, "http://control"+route, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set(private.ProtocolHeader, strconv.Itoa(private.ProtocolVersion))
	resp, err := a.door.Do(r)
	if err != nil {
		return errAway
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return errAway
	}
	if resp.StatusCode == http.StatusOK {
		return json.Unmarshal(text, answer)
	}
	var bad struct{ Code, Error string }
	_ = json.Unmarshal(text, &bad) // what cannot be read is told as it is
	switch bad.Code {
	case private.CodeNoSuchIdentity:
		return auth.ErrNoSuchUser
	case private.CodeInvalidToken:
		return auth.ErrInvalidSessionToken
	case "ExpiredToken":
		return errExpired
	case "ServiceUnavailable":
		return errAway
	}
	return fmt.Errorf("ask the control plane for a key: %d %s", resp.StatusCode, text)
}
