package delta

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func same(x, y *int) bool { return *x == *y }

func TestMiddle(t *testing.T) {
	for _, c := range []struct {
		name    string
		a, b    []int
		outA    []int
		outB    []int
		atStart int
	}{
		{"equal lists have no middle", []int{1, 2, 3}, []int{1, 2, 3}, nil, nil, 3},
		{"two empty lists", nil, nil, nil, nil, 0},
		{"one more at the end", []int{1, 2}, []int{1, 2, 3}, nil, []int{3}, 2},
		{"one less in the middle", []int{1, 2, 3}, []int{1, 3}, []int{2}, nil, 1},
		{"one of several equal ones is less", []int{1, 1, 1}, []int{1, 1}, []int{1}, nil, 2},
		{"one changed", []int{1, 2, 3}, []int{1, 7, 3}, []int{2}, []int{7}, 1},
		{"nothing in common", []int{1}, []int{2, 3}, []int{1}, []int{2, 3}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, endA, endB := Middle(c.a, c.b, same)
			if from != c.atStart || !slices.Equal(c.a[from:endA], c.outA) || !slices.Equal(c.b[from:endB], c.outB) {
				t.Errorf("got %d, %v, %v, want %d, %v, %v", from, c.a[from:endA], c.b[from:endB], c.atStart, c.outA, c.outB)
			}
		})
	}
}

func TestPuttingTheMiddleInMakesOneListTheOther(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	list := func() []int {
		l := make([]int, r.IntN(8))
		for i := range l {
			l[i] = r.IntN(3)
		}
		return l
	}
	for range 10000 {
		a, b := list(), list()
		from, endA, endB := Middle(a, b, same)
		if got := slices.Concat(a[:from], b[from:endB], a[endA:]); !slices.Equal(got, b) {
			t.Fatalf("%v to %v: got %v", a, b, got)
		}
	}
}
