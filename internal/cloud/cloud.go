// Package cloud holds the nouns of ichiro: instances, images, interfaces, groups, commands, hosts.
//
// A noun is a plain value with a typed ID, its states with the transitions that are legal, its
// validation, and its errors with the codes that EC2 documents. One noun, one file. Everything else
// in the tree speaks in these words; nothing here knows of a clock, a file, a socket or a key, so
// every rule can be tested by calling it.
//
// A noun has up to two halves with one writer each. The spec is what someone wishes (written by the
// API and the planners); the status is what a host has seen (written only by the host named in the
// spec). A status names the generation of the spec that it speaks of. What a client is shown, such as
// an instance's state, is a function of both halves.
package cloud

import (
	"encoding/hex"
	"io"
	"strings"
)

// Typed identifiers. All but the account, host and command have EC2's form: a prefix, a dash, 17 hex digits.
type (
	AccountID     string // 12 digits
	InstanceID    string // i-
	ReservationID string // r-
	ImageID       string // ami-, aki-, ari-
	VPCID         string // vpc-
	SubnetID      string // subnet-
	InterfaceID   string // eni-
	AttachmentID  string // eni-attach-
	GroupID       string // sg-
	RuleID        string // sgr-
	RouteTableID  string // rtb-
	GatewayID     string // igw-
	NetworkACLID  string // acl-
	DHCPOptionsID string // dopt-
	NATGatewayID  string // nat-
	AllocationID  string // eipalloc-
	AssociationID string // rtbassoc-, aclassoc-, eipassoc-, vpc-cidr-assoc-, subnet-cidr-assoc-, iip-assoc-
	KeyPairID     string // key-
	HostID        string // h-
	CloudID       string // c-, of an installation: one store and its hosts
	CommandID     string // a UUID, as in Systems Manager
)

// idDigits is the number of hex digits after the dash of an EC2 identifier since 2016; 8 before.
const idDigits = 17

// NewID returns prefix, a dash and 17 random hex digits read from r.
func NewID[ID ~string](r io.Reader, prefix string) (ID, error) {
	var b [9]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", err
	}
	return ID(prefix + "-" + hex.EncodeToString(b[:])[:idDigits]), nil
}

// NewUUID returns a random (version 4) UUID read from r, in lower case.
func NewUUID(r io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", err
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
}

// WellFormed reports whether id is one of the prefixes, a dash, and 8 or 17 lower-case hex digits.
func WellFormed[ID ~string](id ID, prefixes ...string) bool {
	for _, p := range prefixes {
		digits, ok := strings.CutPrefix(string(id), p+"-")
		if !ok || len(digits) != idDigits && len(digits) != 8 {
			continue
		}
		if strings.Trim(digits, "0123456789abcdef") == "" {
			return true
		}
	}
	return false
}

// Digits returns the hex digits of an identifier: what follows its last dash.
func Digits[ID ~string](id ID) string {
	return string(id)[strings.LastIndexByte(string(id), '-')+1:]
}

// Tags are the key and value pairs on a resource.
type Tags map[string]string

// Validate refuses what EC2 refuses: more than 50 tags, keys over 127 characters, values over 255,
// and keys in the reserved aws: name space.
func (t Tags) Validate() error {
	if len(t) > 50 {
		return Errorf("TagLimitExceeded", "a resource may have 50 tags, and this asks for %d: leave some out", len(t))
	}
	for k, v := range t {
		switch {
		case k == "" || len([]rune(k)) > 127:
			return Errorf("InvalidParameterValue", "tag key %.40q must have 1 to 127 characters", k)
		case len([]rune(v)) > 255:
			return Errorf("InvalidParameterValue", "the value of tag %q must have at most 255 characters", k)
		case strings.HasPrefix(strings.ToLower(k), "aws:"):
			return Errorf("InvalidParameterValue", "tag key %q starts with aws:, which is reserved: choose another", k)
		}
	}
	return nil
}
