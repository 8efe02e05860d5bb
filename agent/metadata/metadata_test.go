package metadata

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

var update = flag.Bool("update", false, "rewrite the golden file")

func assignment() cloud.Assignment {
	nic := func(id cloud.InterfaceID, mac, addr string, index int) cloud.AssignedInterface {
		return cloud.AssignedInterface{
			NetworkInterface: cloud.NetworkInterface{
				ID: id, Account: "123456789012", VPC: "vpc-0eeeeeeeeeeeeeeee", Subnet: "subnet-0ffffffffffffffff", MAC: mac,
				Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Groups: []cloud.GroupID{"sg-01111111111111111"}, DeviceIndex: index,
			},
			Network:     cloud.Subnet{CIDR: netip.MustParsePrefix("172.31.0.0/20")},
			VPCPrefixes: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/16")},
			GroupNames:  []string{"default"},
		}
	}
	return cloud.Assignment{
		Instance: cloud.Instance{
			ID: "i-0123456789abcdef0", Account: "123456789012", Reservation: "r-0aaaaaaaaaaaaaaaa", Image: "ami-0bbbbbbbbbbbbbbbb",
			Kernel: "aki-0cccccccccccccccc", Virtualization: "paravirtual", RootDeviceName: "/dev/sda1", Type: "t3.micro", KeyName: "my-key",
			Profile: &cloud.ProfileRef{ARN: "arn:aws:iam::123456789012:instance-profile/demo", ID: "AIPAEXAMPLE", Name: "demo", RoleName: "demo-role"},
			Zone:    "ichiro-1a", Power: cloud.PowerRunning, Launched: time.Date(2026, 11, 23, 18, 0, 5, 0, time.UTC),
			Metadata: cloud.MetadataOptions{HTTPTokens: "required"}, Tags: cloud.Tags{"Name": "secret"},
		},
		Region:     "ichiro-1",
		Interfaces: []cloud.AssignedInterface{nic("eni-2", "02:00:00:00:00:02", "172.31.0.11", 1), nic("eni-1", "02:00:00:00:00:0A", "172.31.0.10", 0)},
		PublicKey:  "ssh-ed25519 AAAA\n",
		UserData:   []byte("#!/bin/sh\n"),
		Identity:   cloud.IdentityDocument{Document: "{}", Signature: "c2ln", RSA2048: "cnNh", PKCS7: "cDc="},
	}
}

func TestCompile(t *testing.T) {
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetIndent("", "  ")
	if err := enc.Encode(Compile(assignment())); err != nil {
		t.Fatal(err)
	}
	const path = "testdata/metadata.json"
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s differs; go test -update and look at the difference. Got:\n%s", path, got.String())
	}
	back, err := bundle.Read[bundle.Metadata](path)
	if err != nil || !reflect.DeepEqual(back, Compile(assignment())) {
		t.Errorf("what is written is read as something else: %v", err)
	}
}

func TestTagsAreShownOnlyWhenAskedFor(t *testing.T) {
	a := assignment()
	if got := Compile(a).Tags; got != nil {
		t.Errorf("hidden tags: %v", got)
	}
	a.Instance.Metadata.InstanceTags = "enabled"
	if got := Compile(a).Tags; got["Name"] != "secret" {
		t.Errorf("tags: %v, want Name", got)
	}
}

func TestAnEndIsAnnounced(t *testing.T) {
	a := assignment()
	for power, want := range map[cloud.Power]string{cloud.PowerRunning: "none", cloud.PowerStopped: "shutdown", cloud.PowerTerminated: "shutdown"} {
		a.Instance.Power = power
		if got := Compile(a).Action; got != want {
			t.Errorf("instance-action of %s is %q, want %q", power, got, want)
		}
	}
}

func TestZoneID(t *testing.T) {
	for _, c := range []struct{ region, zone, want string }{
		{"ichiro-1", "ichiro-1a", "ichiro1-az1"},
		{"eu-west-1", "eu-west-1c", "euwest1-az3"},
		{"ichiro-1", "ichiro-2a", ""},
		{"ichiro-1", "ichiro-1", ""},
	} {
		if got := cloud.ZoneID(c.region, c.zone); got != c.want {
			t.Errorf("ZoneID(%s, %s) = %q, want %q", c.region, c.zone, got, c.want)
		}
	}
}
