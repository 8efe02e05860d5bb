package cloud_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestMembersComeBackAsTheyWere(t *testing.T) {
	subnet := func(n int) (out cloud.Members) {
		for a := netip.MustParseAddr("10.0.0.0"); len(out) < n; a = a.Next() {
			out = append(out, a)
		}
		return out
	}
	for _, c := range []struct {
		name  string
		in    cloud.Members
		bytes int // at most
	}{
		{"nobody", nil, 2},
		{"one", addresses("172.31.0.10"), 12},
		{"two families in any order", addresses("172.31.0.10", "2001:db8::1", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::2", "10.0.0.1", "::", "0.0.0.0"), 120},
		{"16,000 of a subnet", subnet(16000), 16000 * 2 * 4 / 3 * 101 / 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := json.Marshal(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > c.bytes {
				t.Errorf("%d bytes, want at most %d", len(data), c.bytes)
			}
			var got cloud.Members
			if err := json.Unmarshal(data, &got); err != nil || !slices.Equal(got, c.in) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	var old cloud.Members
	if err := json.Unmarshal([]byte(`["172.31.0.10","2001:db8::1"]`), &old); err != nil || !slices.Equal(old, addresses("172.31.0.10", "2001:db8::1")) {
		t.Errorf("what an earlier version wrote: got %v, %v", old, err)
	}
	if err := json.Unmarshal([]byte(`null`), &old); err != nil || old != nil {
		t.Errorf("null: got %v, %v", old, err)
	}
	for _, bad := range []string{`"x"`, `"BQ=="`, `"BQECAwQF"`, `"BAoA"`, `"kQ=="`, `["x"]`, `7`} {
		if err := json.Unmarshal([]byte(bad), &old); err == nil {
			t.Errorf("%s: got %v, want an error", bad, old)
		}
	}
	if _, err := json.Marshal(cloud.Members{{}}); err == nil {
		t.Error("an address that is none is written")
	}
}

func addresses(texts ...string) (out cloud.Members) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}
