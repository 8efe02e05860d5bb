package ec2

import (
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestATypesBandwidthIsToldAsOnEC2(t *testing.T) {
	for _, c := range []struct {
		name           string
		typ            cloud.InstanceType
		words          string
		baseline, peak float64 // zero: not told
	}{
		{"one that bursts", cloud.InstanceType{BandwidthMbit: 64, PeakMbit: 5000}, "Up to 5 Gigabit", .064, 5},
		{"one that does not", cloud.InstanceType{BandwidthMbit: 300, PeakMbit: 300}, "300 Megabit", .3, .3},
		{"one of an operator who names no peak", cloud.InstanceType{BandwidthMbit: 10000}, "10 Gigabit", 10, 10},
		{"one without bounds", cloud.InstanceType{}, "Unlimited", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s *Service
			card := s.instanceType(c.typ).NetworkInfo.NetworkCards[0]
			told := func(f *float64) float64 {
				if f == nil {
					return 0
				}
				return *f
			}
			got := []any{card.NetworkPerformance, told(card.BaselineBandwidthInGbps), told(card.PeakBandwidthInGbps)}
			if got[0] != c.words || got[1] != c.baseline || got[2] != c.peak {
				t.Errorf("got %v, want %v", got, []any{c.words, c.baseline, c.peak})
			}
		})
	}
}
