package ec2

import "testing"

// A resource that has tags and no name for groups would be in none, and nobody would see why.
func TestWhatHasTagsCanBeGrouped(t *testing.T) {
	for _, k := range taggables() {
		if cloudKinds[k.name] == "" && k.name != "security-group-rule" { // Resource Groups does not know those either
			t.Errorf("%s has tags and no kind", k.name)
		}
	}
}
