package host

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// traffic is what an agent's metrics say of one network interface.
type traffic struct {
	sent    []string // "ADDRESS PACKETS packets BYTES bytes", in the order of the metrics
	dropped []string // "REASON PACKETS"
	missing []string // addresses that the guest does not have
}

// network writes a table of the network interfaces, from the metrics of the agent. A host without an agent has none.
func (l Layout) network(ctx context.Context, w io.Writer) {
	resp, err := l.get(ctx, "agent", "/metrics")
	if err != nil {
		return
	}
	defer resp.Body.Close()
	all := readTraffic(resp.Body)
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w, "\nINTERFACE\tSENT\tDROPPED\tNOT IN THE GUEST")
	for _, id := range slices.Sorted(maps.Keys(all)) {
		t := all[id]
		dropped := strings.Join(t.dropped, ", ")
		if dropped == "" {
			dropped = "nothing"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", id, strings.Join(t.sent, ", "), dropped, strings.Join(t.missing, ", "))
	}
}

// sample is a line of Prometheus's text format: name, labels, value.
var (
	sample = regexp.MustCompile(`^ichiro_network_([a-z_]+)\{(.*)\} (\S+)$`)
	label  = regexp.MustCompile(`([a-z]+)="([^"]*)"`)
)

// readTraffic reads the metrics that tell interfaces apart; a metric's lines are together and in order.
func readTraffic(metrics io.Reader) map[string]traffic {
	packets := map[string]string{}
	all := map[string]traffic{}
	var lines [][]string
	for s := bufio.NewScanner(metrics); s.Scan(); {
		if m := sample.FindStringSubmatch(s.Text()); m != nil {
			lines = append(lines, m)
			if m[1] == "sent_packets_total" {
				packets[m[2]] = whole(m[3])
			}
		}
	}
	for _, m := range lines {
		labels := map[string]string{}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			labels[l[1]] = l[2]
		}
		t := all[labels["interface"]]
		switch m[1] {
		case "sent_bytes_total":
			t.sent = append(t.sent, fmt.Sprintf("%s: %s packets, %s bytes", labels["address"], packets[m[2]], whole(m[3])))
		case "dropped_packets_total":
			t.dropped = append(t.dropped, labels["reason"]+" "+whole(m[3]))
		case "address_in_guest":
			if whole(m[3]) == "0" {
				t.missing = append(t.missing, labels["address"])
			}
		default:
			continue
		}
		all[labels["interface"]] = t
	}
	return all
}

// whole writes a float of Prometheus's as the whole number that it is.
func whole(s string) string {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return s
	}
	return strconv.FormatFloat(f, 'f', 0, 64)
}
