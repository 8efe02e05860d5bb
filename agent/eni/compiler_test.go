package eni

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// dice makes Configs, each a little different from the one before: interfaces come, go, and get other addresses and
// groups; some want what others have.
type dice struct {
	*rand.Rand
	c    Config
	wide map[cloud.InstanceID]int // bandwidth
}

func newDice(prefix string, seed uint64) *dice {
	d := &dice{Rand: rand.New(rand.NewPCG(seed, 5)), c: Config{Prefix: prefix, Domain: "ichiro-1.compute.internal"}, wide: map[cloud.InstanceID]int{}}
	for n := range 2 {
		id := cloud.VPCID(fmt.Sprintf("vpc-%d", n))
		subnet := cloud.Subnet{ID: cloud.SubnetID(fmt.Sprintf("subnet-%d", n)), VPC: id, CIDR: netip.MustParsePrefix("10.0.0.0/24")}
		v := cloud.HostNetwork{VPC: cloud.VPC{ID: id, CIDR: netip.MustParsePrefix("10.0.0.0/16")}, Subnets: []cloud.HostSubnet{{
			Subnet: subnet, Routes: []cloud.HostRoute{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Internet: true}},
		}}}
		for _, g := range []cloud.GroupID{"sg-a", "sg-b"} {
			group := cloud.HostGroup{SecurityGroup: cloud.SecurityGroup{ID: g, VPC: id}}
			group.Ingress, group.Egress = cloud.DefaultGroupRules(g, "sgr-1", "sgr-2")
			v.Groups = append(v.Groups, group)
		}
		d.c.VPCs = append(d.c.VPCs, v)
	}
	return d
}

func (d *dice) address() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + d.IntN(40))}) }

func (d *dice) groups() []cloud.GroupID {
	return [][]cloud.GroupID{{"sg-a"}, {"sg-b"}, {"sg-b", "sg-a"}, nil}[d.IntN(4)]
}

// interfaces that are new may be refused: their addresses may be taken.
func (d *dice) newInterface(n int) *Interface {
	v := d.c.VPCs[d.IntN(len(d.c.VPCs))]
	instance := cloud.InstanceID(fmt.Sprintf("i-%d", d.IntN(6)))
	return &Interface{
		Bandwidth: Bandwidth{Baseline: d.wide[instance]},
		NetworkInterface: cloud.NetworkInterface{
			ID: cloud.InterfaceID(fmt.Sprintf("eni-%017d", n)), VPC: v.VPC.ID, Subnet: v.Subnets[0].ID, MAC: fmt.Sprintf("02:00:00:00:01:%02x", n),
			Addresses: []netip.Addr{d.address()}, Groups: d.groups(), SourceDestCheck: d.IntN(5) > 0,
			Instance: instance, AttachTime: time.Unix(int64(d.IntN(10)), 0),
		},
		Network: v.Subnets[0].Subnet, Hostname: "h",
	}
}

func (d *dice) index() int {
	if len(d.c.Interfaces) == 0 {
		d.c.Interfaces = append(d.c.Interfaces, d.newInterface(99))
	}
	return d.IntN(len(d.c.Interfaces))
}

// change returns an interface's successor, which may be changed.
func (d *dice) change(n int) *Interface {
	i := *d.c.Interfaces[n]
	i.Addresses = slices.Clone(i.Addresses)
	d.c.Interfaces[n] = &i
	return &i
}

// roll changes the Config in place, but for its interfaces, as a careless caller might, and returns what it did.
func (d *dice) roll() string {
	if d.IntN(5) == 0 {
		return d.roll6()
	}
	switch k := d.IntN(11); k {
	case 0, 1, 2:
		n := d.IntN(90)
		if slices.ContainsFunc(d.c.Interfaces, func(i *Interface) bool { return i.ID == cloud.InterfaceID(fmt.Sprintf("eni-%017d", n)) }) {
			return "nothing"
		}
		i := d.newInterface(n)
		d.c.Interfaces = append(d.c.Interfaces, i)
		return "adds " + string(i.ID)
	case 3, 4:
		n := d.index()
		id := d.c.Interfaces[n].ID
		d.c.Interfaces = slices.Delete(d.c.Interfaces, n, n+1)
		return "removes " + string(id)
	case 5:
		i := d.change(d.index())
		i.Addresses = append([]netip.Addr{i.Addresses[0]}, d.address())
		i.Addresses = slices.Compact(i.Addresses)
		return "gives an address to " + string(i.ID)
	case 6:
		i := d.change(d.index())
		i.Addresses[0] = d.address()
		i.Addresses = i.Addresses[:1]
		return "changes the address of " + string(i.ID)
	case 7:
		i := d.change(d.index())
		i.Groups, i.MTU = d.groups(), 1500+d.IntN(2)
		return "changes the groups of " + string(i.ID)
	case 8:
		i := d.change(d.index())
		i.Public = nil
		if d.IntN(2) == 0 {
			i.Public = []cloud.PublicAddress{{Public: netip.AddrFrom4([4]byte{203, 0, 113, byte(d.IntN(3))}), Private: i.Addresses[0]}}
		}
		return "changes the public address of " + string(i.ID)
	case 9:
		id := d.c.Interfaces[d.index()].Instance
		d.wide[id] = d.IntN(3)
		for n := range d.c.Interfaces {
			if d.c.Interfaces[n].Instance == id {
				d.change(n).Bandwidth.Baseline = d.wide[id]
			}
		}
		return "changes the bandwidth of " + string(id)
	}
	v := &d.c.VPCs[d.IntN(len(d.c.VPCs))]
	g := &v.Groups[d.IntN(len(v.Groups))]
	g.Members = nil
	for _, i := range d.c.Interfaces {
		if i.VPC == v.VPC.ID && slices.Contains(i.Groups, g.ID) {
			g.Members = append(g.Members, i.Addresses...)
		}
	}
	return "gives members to " + string(g.ID)
}

func TestTheCompilersMemoryChangesNothingOfItsAnswers(t *testing.T) {
	for seed := range uint64(20) {
		d, m := newDice("ic", seed), newCompiler()
		for range 100 {
			did := d.roll()
			got, gotErr := m.Compile(d.c)
			want, wantErr := Compile(d.c)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, after it %s: got\n%s\nwant\n%s", seed, did, text(t, got), text(t, want))
			}
			if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
				t.Fatalf("seed %d, after it %s: got %v, want %v", seed, did, gotErr, wantErr)
			}
		}
	}
}

func text(t *testing.T, p Plan) []byte {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What a part is made from must be compared, or a change of it would never be carried out.
func TestEqualKnowsEveryFieldOfAnInterface(t *testing.T) {
	unused := []string{ // nothing on the host is made from them
		"Generation", "Account", "Zone", "Description", "AssignPublic", "Tags", "Attachment", "DeleteOnTermination", "Detach", "Left",
		"Network.Account", "Network.Default", "Network.MapPublicAddress", "Network.AssignIPv6", "Network.RouteTable", "Network.RouteAssociation",
		"Network.NetworkACL", "Network.ACLAssociation", "Network.Tags",
	}
	var walk func(path string, typ reflect.Type, index []int)
	walk = func(path string, typ reflect.Type, index []int) {
		for k := range typ.NumField() {
			f := typ.Field(k)
			name, at := path+f.Name, append(slices.Clone(index), k)
			if f.Anonymous || f.Name == "Network" {
				sub := ""
				if f.Name == "Network" {
					sub = "Network."
				}
				walk(sub, f.Type, at)
				continue
			}
			a, b := &Interface{}, &Interface{}
			fill(reflect.ValueOf(b).Elem().FieldByIndex(at))
			if got, want := a.Equal(b), slices.Contains(unused, name); got != want {
				t.Errorf("field %s: another value counts as equal: %v, want %v", name, got, want)
			}
		}
	}
	walk("", reflect.TypeFor[Interface](), nil)
}

// fill gives a field some value that is not zero.
func fill(v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1, 0)))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.MustParsePrefix("10.0.0.0/8")))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint32:
		v.SetUint(1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Struct:
		fill(v.Field(0))
	default:
		panic("teach fill the kind of " + v.Type().String())
	}
}

// BenchmarkCompile is one interface more, and less, beside 4,000 in one VPC.
func BenchmarkCompile(b *testing.B) {
	all := make([]*Interface, 4001)
	d := newDice("ic", 1)
	for n := range all {
		i := d.newInterface(0)
		i.ID, i.VPC, i.Instance = cloud.InterfaceID(fmt.Sprintf("eni-%017d", n)), "vpc-0", cloud.InstanceID(fmt.Sprint(n))
		i.Network.CIDR = netip.MustParsePrefix("10.0.0.0/16")
		i.Addresses, i.Groups = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(1 + n>>8), byte(n)})}, []cloud.GroupID{"sg-a"}
		i.AttachTime = time.Unix(int64(n), 0)
		all[n] = i
	}
	m := newCompiler()
	b.ReportAllocs()
	for b.Loop() {
		d.c.Interfaces = all[:4000]
		if _, err := m.Compile(d.c); err != nil {
			b.Fatal(err)
		}
		d.c.Interfaces = all
		if _, err := m.Compile(d.c); err != nil {
			b.Fatal(err)
		}
	}
}
