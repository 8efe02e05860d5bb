package host

import (
	"reflect"
	"strings"
	"testing"
)

func TestTheStatusReadsWhatTheAgentCounts(t *testing.T) {
	metrics := `# HELP ichiro_network_dropped_packets_total Packets.
# TYPE ichiro_network_dropped_packets_total counter
ichiro_network_dropped_packets_total{interface="eni-1",reason="sgin",vpc="vpc-1"} 3
ichiro_network_dropped_packets_total{interface="eni-1",reason="spoof",vpc="vpc-1"} 1.2e+07
ichiro_network_address_in_guest{address="10.0.0.8",interface="eni-2",vpc="vpc-1"} 1
ichiro_network_address_in_guest{address="10.0.0.9",interface="eni-2",vpc="vpc-1"} 0
ichiro_network_events_total{event="dhcp_acks"} 4
ichiro_network_sent_bytes_total{address="10.0.0.4",interface="eni-1",vpc="vpc-1"} 2048
ichiro_network_sent_bytes_total{address="10.0.0.5",interface="eni-2",vpc="vpc-1"} 0
ichiro_network_sent_packets_total{address="10.0.0.4",interface="eni-1",vpc="vpc-1"} 16
ichiro_network_sent_packets_total{address="10.0.0.5",interface="eni-2",vpc="vpc-1"} 0
go_goroutines 12
`
	want := map[string]traffic{
		"eni-1": {sent: []string{"10.0.0.4: 16 packets, 2048 bytes"}, dropped: []string{"sgin 3", "spoof 12000000"}},
		"eni-2": {sent: []string{"10.0.0.5: 0 packets, 0 bytes"}, missing: []string{"10.0.0.9"}},
	}
	if got := readTraffic(strings.NewReader(metrics)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
