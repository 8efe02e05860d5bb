// Package ticket is how a host's metadata service asks the control plane for a token in the name of one instance.
//
// Hosts and control plane share a key (STATE/keys/hosts). Of it and an instance's ID the host's agent makes the instance's
// ticket and gives it to the metadata service, which is unprivileged and never sees the key: it can speak for the
// instances of its host and for no other. The guest never sees the ticket. A request is a query that is
// signed with it, not one that holds it, and is good for some minutes:
//
//	GET PATH?instance=i-...&audience=...&nonce=...&ttl=900&at=1764406800     Authorization: ichiro-ticket HEX
//
// So whoever hears one on the way can repeat it, and gets a token that the answer had told them already; they cannot ask for another.
package ticket

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Path is where the control plane answers requests, on the endpoint of the API.
const Path = "/.well-known/ichiro/token"

// The limits of a request. STS takes tokens of an hour, Vault lets a login live longer than its token: more than
// an hour would only be longer to steal.
const (
	MinLife     = time.Minute
	DefaultLife = 15 * time.Minute
	MaxLife     = time.Hour
	maxText     = 512             // bytes of an audience or a nonce: a URL, a digest
	fresh       = 5 * time.Minute // how far apart the clocks of a host and the control plane may be, as in SigV4 roughly
)

// scheme is that of the Authorization header.
const scheme = "ichiro-ticket "

// Ticket is an instance's secret. It belongs to the host and never goes to the guest.
type Ticket []byte

// Of returns the ticket of an instance under the key of the hosts, which has 32 bytes.
func Of(hosts []byte, id cloud.InstanceID) Ticket {
	m := hmac.New(sha256.New, hosts)
	m.Write([]byte("ichiro token ticket\x00" + string(id))) // the key seals, too: no sealed value begins like this
	return m.Sum(nil)
}

// Request is what is asked for.
type Request struct {
	Instance cloud.InstanceID
	Audience string
	Nonce    string // may be empty
	Life     time.Duration
	At       time.Time // when it was asked
}

// Check refuses what no token may say, in words for the guest.
func (r Request) Check() error {
	switch {
	case r.Audience == "":
		return errors.New("audience is missing: name the system that the token is for")
	case !plain(r.Audience):
		return fmt.Errorf("audience: at most %d bytes of UTF-8 without control characters", maxText)
	case !plain(r.Nonce):
		return fmt.Errorf("nonce: at most %d bytes of UTF-8 without control characters", maxText)
	case r.Life < MinLife || r.Life > MaxLife:
		return fmt.Errorf("ttl: %d to %d seconds", int(MinLife.Seconds()), int(MaxLife.Seconds()))
	}
	return nil
}

func plain(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) < 0
}

// Sign returns the query and the Authorization header of a request.
func (r Request) Sign(t Ticket) (query, authorization string) {
	query = url.Values{
		"instance": {string(r.Instance)}, "audience": {r.Audience}, "nonce": {r.Nonce},
		"ttl": {strconv.Itoa(int(r.Life.Seconds()))}, "at": {strconv.FormatInt(r.At.Unix(), 10)},
	}.Encode()
	return query, scheme + hex.EncodeToString(seal(t, query))
}

func seal(t Ticket, query string) []byte {
	m := hmac.New(sha256.New, t)
	m.Write([]byte(query))
	return m.Sum(nil)
}

// ErrForged is the error of Verify for a request that no host has signed, or that is too old.
var ErrForged = errors.New("the request is not signed by a host of this cloud, or its clock is wrong")

// Verify returns the request that a query and its Authorization header make. What it says has been said by a
// host; whether it may be answered, Check and the instance's state tell.
func Verify(hosts []byte, query, authorization string, now time.Time) (Request, error) {
	v, err := url.ParseQuery(query)
	if err != nil {
		return Request{}, ErrForged
	}
	r := Request{Instance: cloud.InstanceID(v.Get("instance")), Audience: v.Get("audience"), Nonce: v.Get("nonce")}
	text, ours := strings.CutPrefix(authorization, scheme)
	mac, err := hex.DecodeString(text)
	if !ours || err != nil || !cloud.WellFormed(r.Instance, "i") || !hmac.Equal(mac, seal(Of(hosts, r.Instance), query)) {
		return Request{}, ErrForged
	}
	ttl, err1 := strconv.ParseUint(v.Get("ttl"), 10, 31)
	at, err2 := strconv.ParseInt(v.Get("at"), 10, 64)
	if err1 != nil || err2 != nil {
		return Request{}, ErrForged
	}
	r.Life, r.At = time.Duration(ttl)*time.Second, time.Unix(at, 0)
	if off := now.Sub(r.At); off > fresh || off < -fresh {
		return Request{}, ErrForged
	}
	return r, nil
}
