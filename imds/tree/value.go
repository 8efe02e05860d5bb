package tree

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// some is a value that is there unless it is empty.
func some(s string) (string, bool) { return s, s != "" }

// text is a leaf of the whole instance.
func text(value func(Instance) string) content {
	return func(i Instance, _ []string) (string, bool) { return some(value(i)) }
}

// each is a leaf of one network interface.
func each(value func(bundle.MetadataInterface) string) content {
	return func(i Instance, at []string) (string, bool) { return some(value(interfaceOf(i, at))) }
}

// interfaceOf returns the interface of the MAC that is the first name in the path.
func interfaceOf(i Instance, at []string) bundle.MetadataInterface {
	for _, n := range i.Interfaces {
		if n.MAC == at[0] {
			return n
		}
	}
	return bundle.MetadataInterface{}
}

// Several values are one to a line, and no line feed ends the last.

func lines[S ~string](list []S) string {
	s := make([]string, len(list))
	for i, v := range list {
		s[i] = string(v)
	}
	return strings.Join(s, "\n")
}

func joined[A fmt.Stringer](list []A) string {
	s := make([]string, len(list))
	for i, v := range list {
		s[i] = v.String()
	}
	return strings.Join(s, "\n")
}

// delegated returns the prefixes of one version of IP.
func delegated(n bundle.MetadataInterface, version func(netip.Addr) bool) string {
	return joined(slices.DeleteFunc(slices.Clone(n.Prefixes), func(p netip.Prefix) bool { return !version(p.Addr()) }))
}

// first returns the first valid address or prefix, or "".
func first[A interface {
	IsValid() bool
	String() string
}](list []A) string {
	if len(list) == 0 || !list[0].IsValid() {
		return ""
	}
	return list[0].String()
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func manifestPath(i Instance) string {
	if i.ManifestPath == "" {
		return "(unknown)"
	}
	return i.ManifestPath
}

// events are those that are to come, or those that are over: a JSON array, which may be empty.
func events(active bool) content {
	return func(i Instance, _ []string) (string, bool) {
		var list []string
		for _, e := range i.Events {
			if (e.State == cloud.EventActive) != active {
				continue
			}
			fields := []string{
				"NotBefore", moment(e.NotBefore), "Code", e.Code, "Description", e.Told(), "EventId", string(e.ID),
				"NotAfter", moment(e.NotAfter), "State", string(e.State),
			}
			if e.NotAfter.IsZero() {
				fields = slices.Delete(fields, 8, 10)
			}
			list = append(list, object(fields...))
		}
		if list == nil {
			return "[]", true
		}
		return "[ " + strings.Join(list, ", ") + " ]", true
	}
}

// moment is a time as EC2's events have it, "21 Jan 2019 09:00:43 GMT".
func moment(t time.Time) string { return t.UTC().Format("02 Jan 2006 15:04:05 GMT") }

// Notices as spot instances get them. There are none here, but machines are drained, and what was made to give way to a spot
// price (termination handlers, schedulers) knows what to do then: rebalance from the announcement on, and two minutes before the
// time, as on EC2, what happens then.
const notice = 2 * time.Minute

// taken returns the first event that takes the instance from its host.
func taken(i Instance) (first cloud.ScheduledEvent, ok bool) {
	for _, e := range i.Events {
		if e.State == cloud.EventActive && e.Takes() != "" && (!ok || e.NotBefore.Before(first.NotBefore)) {
			first, ok = e, true
		}
	}
	return first, ok
}

func rebalance(i Instance) string {
	e, ok := taken(i)
	if !ok || e.Announced.IsZero() {
		return ""
	}
	return fmt.Sprintf(`{"noticeTime": "%s"}`, second(e.Announced))
}

func interruption(i Instance) string {
	e, ok := taken(i)
	if !ok || i.Now.Before(e.NotBefore.Add(-notice)) {
		return ""
	}
	return fmt.Sprintf(`{"action": "%s", "time": "%s"}`, e.Takes(), second(e.NotBefore))
}

func termination(i Instance) string {
	e, ok := taken(i)
	if !ok || e.Takes() != "terminate" || i.Now.Before(e.NotBefore.Add(-notice)) {
		return ""
	}
	return second(e.NotBefore)
}

// second is a time as most of EC2 has it, "2017-09-18T08:22:00Z".
func second(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func monitoring(i Instance) string {
	if i.Monitoring {
		return "enabled"
	}
	return "disabled"
}

func partition(i Instance) string {
	if i.Placement.Partition == 0 {
		return ""
	}
	return strconv.Itoa(i.Placement.Partition)
}

func publicAddress(i Instance) string {
	if p := i.Primary().PublicAddress; len(p) > 0 {
		return p[0].Public.String()
	}
	return ""
}

func publicAddresses(n bundle.MetadataInterface) string {
	var list []netip.Addr
	for _, p := range n.PublicAddress {
		list = append(list, p.Public)
	}
	return joined(list)
}

// association is the private address behind the public one that is the second name in the path.
func association(i Instance, at []string) (string, bool) {
	for _, p := range interfaceOf(i, at).PublicAddress {
		if p.Public.String() == at[1] {
			return p.Private.String(), true
		}
	}
	return "", false
}

func groupNames(n bundle.MetadataInterface) string {
	var list []string
	for _, g := range n.Groups {
		list = append(list, g.Name)
	}
	return lines(list)
}

func groupIDs(n bundle.MetadataInterface) string {
	var list []string
	for _, g := range n.Groups {
		list = append(list, string(g.ID))
	}
	return lines(list)
}

func profileInfo(i Instance, _ []string) (string, bool) {
	if i.Profile == nil {
		return "", false
	}
	updated := i.Launched
	if i.Profile.Since.After(updated) {
		updated = i.Profile.Since
	}
	if c := i.role(); c != nil {
		updated = c.LastUpdated
	}
	return object(
		"Code", "Success",
		"LastUpdated", stamp(updated),
		"InstanceProfileArn", i.Profile.ARN,
		"InstanceProfileId", i.Profile.ID,
	), true
}

// credentials is the JSON of a role. While there are no keys the answer is still 200, with the reason.
func credentials(i Instance, _ []string) (string, bool) {
	c := i.role()
	if c == nil {
		return "", false
	}
	if c.Code != "Success" {
		return object("Code", c.Code, "Message", c.Message, "LastUpdated", stamp(c.LastUpdated)), true
	}
	return object(
		"Code", c.Code,
		"LastUpdated", stamp(c.LastUpdated),
		"Type", "AWS-HMAC",
		"AccessKeyId", c.AccessKeyID,
		"SecretAccessKey", c.SecretAccessKey,
		"Token", c.Token,
		"Expiration", stamp(c.Expiration),
	), true
}

// stamp has no fraction of a second: botocore throws credentials away whose Expiration has one.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// object writes a JSON object of strings the way EC2 does: two spaces, a space on both sides of the colon, no
// line feed at the end.
func object(pairs ...string) string {
	var b strings.Builder
	b.WriteString("{")
	for k := 0; k < len(pairs); k += 2 {
		if k > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n  " + quoted(pairs[k]) + " : " + quoted(pairs[k+1]))
	}
	b.WriteString("\n}")
	return b.String()
}

func quoted(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // tokens are full of + and =, which HTML has no claim on
	enc.Encode(s)            // a string and a buffer: there is no error
	return strings.TrimSuffix(b.String(), "\n")
}
