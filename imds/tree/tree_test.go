package tree

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// small is what the small guest has.
func small() Instance {
	launched := time.Date(2026, 11, 23, 18, 0, 5, 0, time.UTC)
	return Instance{Metadata: &bundle.Metadata{
		Instance: "i-0123456789abcdef0", Account: "123456789012", Reservation: "r-0aaaaaaaaaaaaaaaa", Launched: launched,
		Image: "ami-0bbbbbbbbbbbbbbbb", Kernel: "aki-0cccccccccccccccc", Type: "t3.micro", Virtualization: "paravirtual",
		LifeCycle: "on-demand", Action: "none",
		Hostname: "ip-172-31-0-10.ichiro-1.compute.internal",
		Interfaces: []bundle.MetadataInterface{{
			ID: "eni-0dddddddddddddddd", MAC: "02:12:34:56:78:9a", Owner: "123456789012",
			VPC: "vpc-0eeeeeeeeeeeeeeee", VPCPrefixes: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/16")},
			Subnet: "subnet-0ffffffffffffffff", SubnetPrefix: netip.MustParsePrefix("172.31.0.0/20"),
			Addresses: []netip.Addr{netip.MustParseAddr("172.31.0.10")},
			Hostname:  "ip-172-31-0-10.ichiro-1.compute.internal",
			Groups:    []bundle.MetadataGroup{{ID: "sg-01111111111111111", Name: "default"}},
		}},
		Placement:    bundle.MetadataPlacement{Region: "ichiro-1", Zone: "ichiro-1a", ZoneID: "ichiro1-az1"},
		BlockDevices: map[string]string{"ami": "/dev/sda1", "root": "/dev/sda1"},
		Options:      cloud.DefaultMetadataOptions(),
		Identity:     cloud.IdentityDocument{Document: "{\n  \"document\" : true\n}", Signature: "c2lnbmF0dXJl", RSA2048: "cnNhMjA0OA==", PKCS7: "cGtjczc="},
		Domain:       "amazonaws.com", Partition: "aws",
	}}
}

// full has two of everything that can be there.
func full() Instance {
	i := small()
	i.PublicKey, i.KeyName = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI my-key", "my-key"
	i.UserData = []byte("#!/bin/sh\necho hello\n\x00\xff")
	i.Profile = &cloud.ProfileRef{ARN: "arn:aws:iam::123456789012:instance-profile/demo", ID: "AIPAEXAMPLE", Name: "demo", RoleName: "demo-role"}
	i.Credentials = &bundle.Credentials{
		Role: "demo-role", Profile: "AIPAEXAMPLE", Code: "Success", LastUpdated: time.Date(2026, 11, 23, 18, 0, 0, 123, time.UTC),
		AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "se/cr+et<&>", Token: "to+ken/==", Expiration: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
	}
	i.Tags = cloud.Tags{"Name": "web", "empty": "", "has space": "hidden", "a/b": "hidden", "..": "hidden", "team:owner@x": "ops"}
	i.Ramdisk, i.AncestorImages = "ari-02222222222222222", []cloud.ImageID{"ami-03333333333333333", "ami-04444444444444444"}
	i.PublicHostname = "ec2-203-0-113-7.compute.ichiro-1"
	i.Monitoring = true
	at := time.Date(2026, 12, 1, 9, 0, 43, 0, time.UTC)
	i.Events = []cloud.ScheduledEvent{
		{ID: "instance-event-0aaaaaaaaaaaaaaaa", Code: "system-maintenance", Description: "new disk", NotBefore: at.Add(-72 * time.Hour), State: cloud.EventCompleted},
		{ID: "instance-event-0bbbbbbbbbbbbbbbb", Code: "system-reboot", Description: "scheduled reboot", NotBefore: at, NotAfter: at.Add(1000 * time.Second), State: cloud.EventActive},
		{ID: "instance-event-0cccccccccccccccc", Code: "instance-retirement", Description: "the \"host\" goes", NotBefore: at, Announced: at.Add(-24 * time.Hour), State: cloud.EventActive},
	}
	i.Now = at.Add(-time.Minute)
	i.Placement.GroupName, i.Placement.Partition, i.Placement.Host = "spread", 2, "h-01234567"
	i.Interfaces[0].PublicAddress = []cloud.PublicAddress{{Public: netip.MustParseAddr("203.0.113.7"), Private: netip.MustParseAddr("172.31.0.10")}}
	i.Interfaces[0].Addresses = append(i.Interfaces[0].Addresses, netip.MustParseAddr("172.31.0.11"))
	i.Interfaces[0].Groups = append(i.Interfaces[0].Groups, bundle.MetadataGroup{ID: "sg-05555555555555555", Name: "web servers"})
	second := i.Interfaces[0]
	second.ID, second.MAC, second.DeviceNumber = "eni-06666666666666666", "02:00:00:00:00:01", 1
	second.Addresses, second.PublicAddress = []netip.Addr{netip.MustParseAddr("172.31.16.9")}, nil
	second.Hostname = "ip-172-31-16-9.ichiro-1.compute.internal"
	i.Interfaces = append(i.Interfaces, second)
	return i
}

func get(t *testing.T, i Instance, path string) (string, bool) {
	t.Helper()
	segments, err := Split(path)
	if err != nil {
		t.Fatalf("Split(%q): %v", path, err)
	}
	a, ok := EC2().Get(i, segments)
	return a.Body, ok
}

// crawl walks the listings as a client does and writes each path with what it holds.
func crawl(t *testing.T, b *strings.Builder, i Instance, path string) {
	body, ok := get(t, i, path)
	if !ok {
		t.Errorf("%s is listed and not there", path)
	}
	fmt.Fprintf(b, "%s\n", path)
	top := strings.Count(strings.Trim(path, "/"), "/") == 0
	for line := range strings.SplitSeq(body, "\n") {
		index, key, isKey := strings.Cut(line, "=")
		switch {
		case isKey && strings.HasSuffix(path, "/public-keys/"):
			fmt.Fprintf(b, "  lists %s=%s\n", index, key)
			crawl(t, b, i, path+index+"/")
		case top && line != "user-data":
			crawl(t, b, i, path+line+"/")
		case strings.HasSuffix(line, "/"):
			crawl(t, b, i, path+line)
		default:
			value, ok := get(t, i, path+line)
			if !ok {
				t.Errorf("%s is listed and not there", path+line)
			}
			fmt.Fprintf(b, "%s %q\n", path+line, value)
		}
	}
}

func TestTheWholeTree(t *testing.T) {
	for _, c := range []struct {
		name, version string
		instance      Instance
	}{
		{"small-latest", "latest", small()},
		{"full-latest", "latest", full()},
		{"full-2009-04-04", "2009-04-04", full()},
		{"full-1.0", "1.0", full()},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			// public-keys ends its listing's only line without a slash; the walk knows, as cloud-init does.
			crawl(t, &b, c.instance, "/"+c.version+"/")
			golden(t, c.name+".txt", b.String())
		})
	}
}

// Every version is walked by its listings: what is listed is served, what is not listed is not served either, and what an older
// version has a newer one has too. The golden file says since when each leaf is there, to be held against EC2's documentation.
func TestAnOlderVersionHidesWhatIsNewer(t *testing.T) {
	i := full()
	i.ProductCodes = []string{"774F4FF8"}
	n := &i.Interfaces[0]
	n.PublicHostname = i.PublicHostname
	n.IPv6 = []netip.Addr{netip.MustParseAddr("2001:db8::a")}
	n.Prefixes = []netip.Prefix{netip.MustParsePrefix("172.31.0.64/28"), netip.MustParsePrefix("2001:db8:0:0:5::/80")}
	n.SubnetPrefix6, n.VPCPrefixes6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/64")}, []netip.Prefix{netip.MustParsePrefix("2001:db8::/56")}
	walk := func(version string) (paths []string) {
		var b strings.Builder
		crawl(t, &b, i, "/"+version+"/")
		for line := range strings.Lines(b.String()) {
			if path, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(path, "/") {
				paths = append(paths, strings.TrimPrefix(path, "/"+version))
			}
		}
		return paths
	}
	all := walk(latest)
	since := map[string]string{}
	for _, version := range versions {
		has := walk(version)
		for _, path := range has {
			if since[path] == "" {
				since[path] = version
			}
		}
		for _, path := range all {
			_, served := get(t, i, "/"+version+path)
			if listed := slices.Contains(has, path); listed != served || since[path] != "" && !listed {
				t.Errorf("%s%s: listed %t, served %t, and there since %q", version, path, listed, served, since[path])
			}
		}
	}
	var b strings.Builder
	for _, path := range all {
		if !strings.HasSuffix(path, "/") && !strings.Contains(path, i.Interfaces[1].MAC) {
			fmt.Fprintf(&b, "%-10s %s\n", since[path], path)
		}
		delete(since, path)
	}
	if len(since) > 0 {
		t.Errorf("older versions have what the latest has not: %v", since)
	}
	golden(t, "since.txt", b.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; go test -update and look at the difference. Got:\n%s", path, got)
	}
}

func TestPaths(t *testing.T) {
	i := full()
	bare := small()
	six := full()
	for k := range six.Interfaces {
		n := &six.Interfaces[k]
		if n.MAC != "02:12:34:56:78:9a" {
			continue
		}
		n.DeviceNumber = 0
		n.IPv6 = []netip.Addr{netip.MustParseAddr("2001:db8::a"), netip.MustParseAddr("2001:db8::b")}
		n.Prefixes = []netip.Prefix{netip.MustParsePrefix("172.31.0.64/28"), netip.MustParsePrefix("2001:db8:0:0:5::/80")}
		n.SubnetPrefix6, n.VPCPrefixes6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/64")}, []netip.Prefix{netip.MustParsePrefix("2001:db8::/56")}
	}
	bare.Kernel = ""
	for _, c := range []struct {
		name     string
		instance Instance
		path     string
		want     string
		found    bool
	}{
		{"the root lists versions without a last line feed", i, "/", strings.Join(versions, "\n"), true},
		{"a version lists without slashes", i, "/latest", "dynamic\nmeta-data\nuser-data", true},
		{"with a slash it is the same", i, "/latest/", "dynamic\nmeta-data\nuser-data", true},
		{"without user data its name is not listed", bare, "/latest/", "dynamic\nmeta-data", true},
		{"no user data is no page", bare, "/latest/user-data", "", false},
		{"user data is byte for byte", i, "/latest/user-data", "#!/bin/sh\necho hello\n\x00\xff", true},
		{"a leaf", i, "/latest/meta-data/instance-id", "i-0123456789abcdef0", true},
		{"a leaf with a slash", i, "/latest/meta-data/instance-id/", "i-0123456789abcdef0", true},
		{"double slashes", i, "//latest//meta-data///instance-id", "i-0123456789abcdef0", true},
		{"below a leaf there is nothing", i, "/latest/meta-data/instance-id/x", "", false},
		{"dots mean nothing", i, "/latest/meta-data/../user-data", "", false},
		{"an unknown version", i, "/2009-04-05/meta-data/", "", false},
		{"an unknown name", i, "/latest/meta-data/nonsense", "", false},
		{"a prefix of a name", i, "/latest/meta-data/instance", "", false},
		{"keys are listed with their names", i, "/latest/meta-data/public-keys", "0=my-key", true},
		{"a key lists its formats", i, "/latest/meta-data/public-keys/0", "openssh-key", true},
		{"a key ends with a line feed", i, "/latest/meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI my-key\n", true},
		{"there is only one key", i, "/latest/meta-data/public-keys/1/openssh-key", "", false},
		{"no key, no directory", bare, "/latest/meta-data/public-keys/", "", false},
		{"macs as the agent asks for them", i, "/latest/meta-data/network/interfaces/macs//02:12:34:56:78:9a//vpc-ipv4-cidr-block", "172.31.0.0/16", true},
		{"macs are in order", i, "/latest/meta-data/network/interfaces/macs", "02:00:00:00:00:01/\n02:12:34:56:78:9a/", true},
		{"macs in upper case are others", i, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9A/mac", "", false},
		{"several addresses", i, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/local-ipv4s", "172.31.0.10\n172.31.0.11", true},
		{"an association", i, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/ipv4-associations/203.0.113.7", "172.31.0.10", true},
		{"no prefix is delegated", i, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/ipv4-prefix", "", false},
		{"what IPv6 the interface has", six, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/ipv6s", "2001:db8::a\n2001:db8::b", true},
		{"its first address of IPv6", six, "/latest/meta-data/ipv6", "2001:db8::a", true},
		{"a delegated prefix of IPv6", six, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/ipv6-prefix", "2001:db8:0:0:5::/80", true},
		{"and of IPv4", six, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/ipv4-prefix", "172.31.0.64/28", true},
		{"the blocks of IPv6", six, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/subnet-ipv6-cidr-blocks", "2001:db8::/64", true},
		{"and the VPC's", six, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/vpc-ipv6-cidr-blocks", "2001:db8::/56", true},
		{"no IPv6, no key", i, "/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/ipv6s", "", false},
		{"one role, no line feed", i, "/latest/meta-data/iam/security-credentials/", "demo-role", true},
		{"no role", bare, "/latest/meta-data/iam/security-credentials/", "", false},
		{"no profile", bare, "/latest/meta-data/iam/info", "", false},
		{"another role", i, "/latest/meta-data/iam/security-credentials/other", "", false},
		{"the older version hides what is newer", i, "/2009-04-04/meta-data/iam/info", "", false},
		{"and knows what is older", i, "/2009-04-04/meta-data/ami-id", "ami-0bbbbbbbbbbbbbbbb", true},
		{"the old dynamic tree has the identity only", i, "/2009-04-04/dynamic", "instance-identity/", true},
		{"before that there was none", i, "/2009-04-03/dynamic", "", false},
		{"without monitoring", bare, "/latest/dynamic/fws/instance-monitoring", "disabled", true},
		{"tags by name", i, "/latest/meta-data/tags/instance", "Name\nempty\nteam:owner@x", true},
		{"an empty tag", i, "/latest/meta-data/tags/instance/empty", "", true},
		{"an escaped tag", i, "/latest/meta-data/tags/instance/team%3Aowner%40x", "ops", true},
		{"a key that cannot be shown", i, "/latest/meta-data/tags/instance/has%20space", "", false},
		{"no slash comes in by escape", i, "/latest/meta-data/tags/instance/a%2Fb", "", false},
		{"hidden tags", bare, "/latest/meta-data/tags", "", false},
		{"hidden tags are an empty list", bare, "/latest/meta-data/tags/instance", "", true},
		{"not in old versions", bare, "/2021-01-03/meta-data/tags/instance", "", false},
		{"nothing takes it away", bare, "/latest/meta-data/spot/instance-action", "", false},
		{"so it has no such directory", bare, "/latest/meta-data/spot/", "", false},
		{"no kernel of ours", bare, "/latest/meta-data/kernel-id", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, found := get(t, c.instance, c.path); got != c.want || found != c.found {
				t.Errorf("%s = %q, %t; want %q, %t", c.path, got, found, c.want, c.found)
			}
		})
	}
}

func TestNoticesComeBeforeTheirTimeAndGoWithTheirEvent(t *testing.T) {
	at := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)
	told := at.Add(-48 * time.Hour)
	event := func(code string, begins time.Time, state cloud.EventState) cloud.ScheduledEvent {
		return cloud.ScheduledEvent{ID: "instance-event-1", Code: code, Description: "x", NotBefore: begins, Announced: told, State: state}
	}
	const advice, stop, end = `{"noticeTime": "2026-11-29T09:00:00Z"}`, `{"action": "stop", "time": "2026-12-01T09:00:00Z"}`, `{"action": "terminate", "time": "2026-12-01T09:00:00Z"}`
	for _, c := range []struct {
		name                      string
		events                    []cloud.ScheduledEvent
		now                       time.Time
		rebalance, action, moment string
	}{
		{"a reboot takes nothing away", []cloud.ScheduledEvent{event("system-reboot", at, cloud.EventActive)}, at, "", "", ""},
		{"a day before, advice", []cloud.ScheduledEvent{event("instance-stop", at, cloud.EventActive)}, at.Add(-24 * time.Hour), advice, "", ""},
		{"nearly two minutes before", []cloud.ScheduledEvent{event("instance-stop", at, cloud.EventActive)}, at.Add(-121 * time.Second), advice, "", ""},
		{"two minutes before, what happens", []cloud.ScheduledEvent{event("instance-stop", at, cloud.EventActive)}, at.Add(-2 * time.Minute), advice, stop, ""},
		{"and if it ends, when", []cloud.ScheduledEvent{event("instance-retirement", at, cloud.EventActive)}, at.Add(-time.Minute), advice, end, "2026-12-01T09:00:00Z"},
		{"afterwards until somebody says that it is done", []cloud.ScheduledEvent{event("instance-stop", at, cloud.EventActive)}, at.Add(time.Hour), advice, stop, ""},
		{"when it is done", []cloud.ScheduledEvent{event("instance-stop", at, cloud.EventCompleted)}, at.Add(time.Hour), "", "", ""},
		{"when it is canceled", []cloud.ScheduledEvent{event("instance-retirement", at, cloud.EventCanceled)}, at.Add(-time.Minute), "", "", ""},
		{"of two the first", []cloud.ScheduledEvent{event("instance-retirement", at.Add(time.Hour), cloud.EventActive), event("instance-stop", at, cloud.EventActive)}, at, advice, stop, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := small()
			i.Events, i.Now = c.events, c.now
			for path, want := range map[string]string{"events/recommendations/rebalance": c.rebalance, "spot/instance-action": c.action, "spot/termination-time": c.moment} {
				if got, found := get(t, i, "/latest/meta-data/"+path); got != want || found != (want != "") {
					t.Errorf("%s: got %q, %t, want %q", path, got, found, want)
				}
			}
			crawl(t, new(strings.Builder), i, "/latest/") // whatever is listed is served
		})
	}
}

// The list that a real instance gives, printed in cloud-init's issue 5711.
func TestTheOldTreeIsThatOfEC2(t *testing.T) {
	i := full()
	i.Kernel, i.Ramdisk, i.AncestorImages = "", "", nil
	i.Interfaces = i.Interfaces[:1]
	got, _ := get(t, i, "/2009-04-04/meta-data/")
	want := strings.ReplaceAll("ami-id ami-launch-index ami-manifest-path block-device-mapping/ hostname instance-action instance-id "+
		"instance-type local-hostname local-ipv4 placement/ profile public-hostname public-ipv4 public-keys/ reservation-id security-groups", " ", "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCredentialsAreWrittenAsEC2WritesThem(t *testing.T) {
	i := full()
	got, _ := get(t, i, "/latest/meta-data/iam/security-credentials/demo-role")
	want := "{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"2026-11-23T18:00:00Z\",\n  \"Type\" : \"AWS-HMAC\",\n" +
		"  \"AccessKeyId\" : \"ASIAEXAMPLE\",\n  \"SecretAccessKey\" : \"se/cr+et<&>\",\n  \"Token\" : \"to+ken/==\",\n" +
		"  \"Expiration\" : \"2026-11-24T00:00:00Z\"\n}"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	i.Credentials = &bundle.Credentials{Role: "demo-role", Profile: "AIPAEXAMPLE", Code: "AssumeRoleUnauthorizedAccess", Message: "EC2 cannot assume the role demo-role."}
	got, found := get(t, i, "/latest/meta-data/iam/security-credentials/demo-role")
	if !found || !strings.Contains(got, `"Code" : "AssumeRoleUnauthorizedAccess"`) || strings.Contains(got, "AccessKeyId") {
		t.Errorf("without keys: %t\n%s", found, got)
	}
}

func TestARoleIsShownOnlyWithItsProfile(t *testing.T) {
	const roles = "/latest/meta-data/iam/security-credentials/"
	for name, c := range map[string]struct {
		change func(*Instance)
		info   string // that iam/info holds; "" for 404
		role   string
	}{
		"keys of the profile":             {func(*Instance) {}, "AIPAEXAMPLE", "demo-role"},
		"keys of the profile before":      {func(i *Instance) { i.Credentials.Profile = "AIPABEFORE" }, "AIPAEXAMPLE", ""},
		"keys of before profiles had IDs": {func(i *Instance) { i.Credentials.Profile = "" }, "AIPAEXAMPLE", ""},
		"another profile than the keys'":  {func(i *Instance) { i.Profile = &cloud.ProfileRef{ID: "AIPAOTHER", RoleName: "demo-role"} }, "AIPAOTHER", ""},
		"no keys yet":                     {func(i *Instance) { i.Credentials = nil }, "AIPAEXAMPLE", ""},
		"no profile any more":             {func(i *Instance) { i.Profile = nil }, "", ""},
		"another role in the profile":     {func(i *Instance) { i.Credentials.Role = "newer" }, "AIPAEXAMPLE", "newer"},
	} {
		i := full()
		c.change(&i)
		info, found := get(t, i, "/latest/meta-data/iam/info")
		if found != (c.info != "") || !strings.Contains(info, c.info) {
			t.Errorf("%s: iam/info is %t %s, want %s", name, found, info, c.info)
		}
		if got, found := get(t, i, roles); got != c.role || found != (c.role != "") {
			t.Errorf("%s: the role is %q, %t; want %q", name, got, found, c.role)
		}
		for _, role := range []string{"demo-role", "newer"} {
			if _, found := get(t, i, roles+role); found != (role == c.role) {
				t.Errorf("%s: keys of %s: %t", name, role, found)
			}
		}
	}
}

func TestVersionsAreInOrder(t *testing.T) {
	if !slices.IsSorted(versions) {
		t.Error("versions are not in order, and comparing them as text would be wrong")
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "//latest", "/latest/meta-data/public-keys/0/openssh-key", "/latest/%2e%2e/", "/%", "/latest/meta-data/tags/instance/%00"} {
		f.Add(s)
	}
	tree, i := EC2(), full()
	f.Fuzz(func(t *testing.T, path string) {
		segments, err := Split(path)
		if err != nil {
			return
		}
		a, found := tree.Get(i, segments)
		doubled, _ := tree.Get(i, slices.DeleteFunc(mustSplit(t, strings.ReplaceAll(path, "/", "//")+"/"), func(s string) bool { return s == "" }))
		if found && a != doubled {
			t.Errorf("%q answers %q, and with more slashes %q", path, a.Body, doubled.Body)
		}
		if !found && a != (Answer{}) {
			t.Errorf("%q is not there and has content", path)
		}
	})
}

func mustSplit(t *testing.T, path string) []string {
	s, err := Split(path)
	if err != nil {
		t.Fatalf("Split(%q): %v", path, err)
	}
	return s
}

func BenchmarkLeaf(b *testing.B) {
	tree, i := EC2(), full()
	for b.Loop() {
		path, _ := Split("/latest/meta-data/network/interfaces/macs/02:12:34:56:78:9a/local-ipv4s")
		if _, ok := tree.Get(i, path); !ok {
			b.Fatal("not there")
		}
	}
}
