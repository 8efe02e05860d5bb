package cloud

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// Members are the addresses of a group's members. In JSON they are one string, because a group may have tens of
// thousands, for which the store has 1.5 MiB together with all else that a host is told of a VPC: in base64, for each
// address how many of its last bytes follow, in which it differs from the one before, and these. In the order of
// their numbers most addresses of a subnet take two bytes, where as text they take seventeen. A list of texts is
// read too: earlier versions wrote that.
type Members []netip.Addr

// longer marks an address of 16 bytes.
const longer = 0x80

// MarshalJSON writes the string.
func (m Members) MarshalJSON() ([]byte, error) {
	var out []byte
	var last4, last6 [16]byte
	for _, a := range m {
		last, mark := &last4, byte(0)
		if a.BitLen() == 128 {
			last, mark = &last6, longer
		}
		if !a.IsValid() || a.Zone() != "" {
			return nil, fmt.Errorf("write the members of a group: %v is nobody's address", a)
		}
		b := a.AsSlice()
		same := 0
		for same < len(b) && b[same] == last[same] {
			same++
		}
		out = append(append(out, mark|byte(len(b)-same)), b[same:]...)
		copy(last[:], b)
	}
	return json.Marshal(base64.StdEncoding.EncodeToString(out))
}

// UnmarshalJSON reads the string, or a list of texts.
func (m *Members) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return json.Unmarshal(data, (*[]netip.Addr)(m))
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("read the members of a group: %v", err)
	}
	*m = nil
	var last4 [4]byte
	var last6 [16]byte
	for len(b) > 0 {
		last := last4[:]
		if b[0]&longer != 0 {
			last = last6[:]
		}
		n := int(b[0] &^ longer)
		if n > len(last) || n >= len(b) {
			return errors.New("read the members of a group: the last one is cut off")
		}
		copy(last[len(last)-n:], b[1:1+n])
		b = b[1+n:]
		a, _ := netip.AddrFromSlice(last)
		*m = append(*m, a)
	}
	return nil
}
