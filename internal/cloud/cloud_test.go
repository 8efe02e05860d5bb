package cloud_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestNewIDs(t *testing.T) {
	zeros := bytes.NewReader(make([]byte, 25))
	id, err := cloud.NewID[cloud.AttachmentID](zeros, "eni-attach")
	if err != nil || id != "eni-attach-00000000000000000" || !cloud.WellFormed(id, "eni", "eni-attach") || cloud.Digits(id) != strings.Repeat("0", 17) {
		t.Errorf("got %q, %v", id, err)
	}
	uuid, err := cloud.NewUUID(zeros)
	if err != nil || uuid != "00000000-0000-4000-8000-000000000000" {
		t.Errorf("got %q, %v", uuid, err)
	}
	if _, err := cloud.NewID[cloud.VPCID](zeros, "vpc"); err == nil {
		t.Error("want an error when there is no randomness left")
	}
	if _, err := cloud.NewUUID(zeros); err == nil {
		t.Error("want an error when there is no randomness left")
	}
}

func TestWellFormed(t *testing.T) {
	for id, want := range map[string]bool{
		"i-0123456789abcdef0": true, "i-01234567": true,
		"": false, "i-": false, "i": false, "vpc-01234567": false, "i-0123456789abcdef": false, "i-0123456789abcdef01": false,
		"i-0123456789ABCDEF0": false, "i-0123456g": false, "i-../../../etc/x": false, "i-0123/567": false, "ii-01234567": false,
		"i-01234567\n": false, " i-01234567": false, "i-0123\x00567": false, "I-01234567": false,
	} {
		if got := cloud.WellFormed(id, "i", "x"); got != want {
			t.Errorf("%q: got %v, want %v", id, got, want)
		}
	}
}

func TestTags(t *testing.T) {
	many := cloud.Tags{}
	for i := range 51 {
		many[fmt.Sprint(i)] = ""
	}
	for name, c := range map[string]struct {
		tags cloud.Tags
		code string
	}{
		"none":                    {nil, ""},
		"an empty value":          {cloud.Tags{"Name": ""}, ""},
		"characters, not bytes":   {cloud.Tags{strings.Repeat("é", 127): strings.Repeat("é", 255)}, ""},
		"an empty key":            {cloud.Tags{"": "x"}, "InvalidParameterValue"},
		"a long key":              {cloud.Tags{strings.Repeat("k", 128): ""}, "InvalidParameterValue"},
		"a long value":            {cloud.Tags{"k": strings.Repeat("v", 256)}, "InvalidParameterValue"},
		"a reserved key":          {cloud.Tags{"aws:x": ""}, "InvalidParameterValue"},
		"a reserved key, shouted": {cloud.Tags{"AWS:x": ""}, "InvalidParameterValue"},
		"too many":                {many, "TagLimitExceeded"},
	} {
		if got := cloud.Code(c.tags.Validate()); got != c.code {
			t.Errorf("%s: got %q, want %q", name, got, c.code)
		}
	}
}

func TestSubnetArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(16, 28).Draw(t, "bits") // what EC2 allows
		b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")
		s := cloud.Subnet{CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), bits)}
		if !s.CIDR.Contains(s.Router()) || !s.CIDR.Contains(s.Last()) || s.CIDR.Contains(s.Last().Next()) {
			t.Fatalf("%v: router %v, last %v", s.CIDR, s.Router(), s.Last())
		}
		free := 0
		if bits >= 24 {
			for a := s.CIDR.Masked().Addr(); s.CIDR.Contains(a); a = a.Next() {
				if !s.Reserved(a) {
					free++
				}
			}
			if free != s.Size() {
				t.Fatalf("%v: %d addresses are free, and Size says %d", s.CIDR, free, s.Size())
			}
		}
	})
	s := cloud.Subnet{CIDR: netip.MustParsePrefix("172.31.0.0/20")}
	if s.Router() != netip.MustParseAddr("172.31.0.1") || s.Last() != netip.MustParseAddr("172.31.15.255") || s.Size() != 4091 {
		t.Errorf("got %v, %v, %d", s.Router(), s.Last(), s.Size())
	}
}

func TestNames(t *testing.T) {
	if got := cloud.PrivateDNSName(netip.MustParseAddr("10.0.12.5"), "ichiro-1"); got != "ip-10-0-12-5.ichiro-1.compute.internal" {
		t.Errorf("got %s", got)
	}
	for zone, want := range map[string]string{"ichiro-1a": "ichiro1-az1", "ichiro-1i": "ichiro1-az9", "ichiro-1j": "", "ichiro-1": "", "ichiro-1ab": "", "other-1a": "", "": ""} {
		if got := cloud.ZoneID("ichiro-1", zone); got != want {
			t.Errorf("%q: got %q, want %q", zone, got, want)
		}
	}
	if (cloud.NetworkInterface{}).Primary().IsValid() {
		t.Error("an interface without addresses has no primary one")
	}
}

func TestImageLocationsNameFilesOfThePoolOnly(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	for location, want := range map[string]cloud.ImageKind{
		sum + ".kernel": cloud.ImageKernel, sum + ".ramdisk": cloud.ImageRamdisk,
		"": "", sum: "", sum + ".": "", sum + ".machine": "", sum + ".kernel\n": "", sum + ".kernel/": "", "/" + sum + ".kernel": "", "../" + sum + ".kernel": "",
		strings.ToUpper(sum) + ".kernel": "", sum[1:] + ".kernel": "", sum + "0.kernel": "", sum + ".kernel.ramdisk": "", "/etc/shadow": "", sum + ".kernel\x00": "",
	} {
		got, err := cloud.KindOfLocation(location)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", location, got, err, want)
		}
	}
	for kind, want := range map[cloud.ImageKind]string{cloud.ImageMachine: "ami", cloud.ImageKernel: "aki", cloud.ImageRamdisk: "ari"} {
		if got := kind.Prefix(); got != want {
			t.Errorf("%s: got %s, want %s", kind, got, want)
		}
	}
}

func TestNamesOfImagesAndKeys(t *testing.T) {
	for name, want := range map[string]bool{"abc": true, "a (b) [c] ./-'@_": true, "ab": false, "": false, "a\nbc": false, "abc\n": false, "aéb": false, strings.Repeat("x", 129): false} {
		if got := cloud.ValidateImageName(name) == nil; got != want {
			t.Errorf("image %q: got %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]bool{"k": true, "a b~": true, "": false, "a\tb": false, "é": false, "a\x7f": false, strings.Repeat("x", 256): false} {
		if got := cloud.ValidateKeyName(name) == nil; got != want {
			t.Errorf("key %q: got %v, want %v", name, got, want)
		}
	}
}

func TestTypes(t *testing.T) {
	seen := map[string]bool{}
	for _, typ := range cloud.Types {
		if seen[typ.Name] || typ.VCPUs < 1 || typ.MemoryMiB < 512 || typ.Interfaces < 1 || typ.Addresses < 1 || typ.BandwidthMbit < 1 || typ.PeakMbit < typ.BandwidthMbit || !typ.Supports("hvm") {
			t.Errorf("%+v is not whole, or there twice", typ)
		}
		seen[typ.Name] = true
	}
	mine := cloud.InstanceType{Name: "x1.tiny", VCPUs: 1, MemoryMiB: 64, Interfaces: 1, Addresses: 1, Virtualizations: []string{"paravirtual"}}
	other := mine
	other.Name = "t2.nano"
	more, err := cloud.Extend(cloud.Types, []cloud.InstanceType{mine, other})
	if err != nil || len(more) != len(cloud.Types)+1 {
		t.Fatalf("got %d types, %v, want one more than %d", len(more), err, len(cloud.Types))
	}
	if nano, _ := cloud.TypeNamed(more, "t2.nano"); nano.MemoryMiB != 64 || nano.Supports("hvm") {
		t.Errorf("got %+v, want the operator's", nano)
	}
	if nano, _ := cloud.TypeNamed(cloud.Types, "t2.nano"); nano.MemoryMiB != 512 {
		t.Error("Extend has changed the table that it was given")
	}
	if _, err := cloud.TypeNamed(more, "x1.huge"); cloud.Code(err) != "InvalidParameterValue" {
		t.Errorf("got %v", err)
	}
	mine.MemoryMiB = 0
	if _, err := cloud.Extend(cloud.Types, []cloud.InstanceType{mine}); cloud.Code(err) != "InvalidParameterValue" {
		t.Errorf("got %v", err)
	}
}

func TestCodesAreFoundBehindOtherErrors(t *testing.T) {
	err := fmt.Errorf("launch: %w", cloud.NotFound("InvalidVpcID.NotFound", "vpc ID", cloud.VPCID("vpc-1")))
	if cloud.Code(err) != "InvalidVpcID.NotFound" || cloud.Code(errors.New("x")) != "" || cloud.Code(nil) != "" {
		t.Errorf("got %q", cloud.Code(err))
	}
	if got := cloud.Malformed("InvalidVpcID.Malformed", cloud.VPCID(strings.Repeat("x", 999))).Error(); len(got) > 200 {
		t.Errorf("the answer repeats %d bytes of the question", len(got))
	}
}
