package cloud

import (
	"regexp"
	"slices"
	"sync"
)

// metadataTagKey is EC2's rule for what can be a name in the metadata tree.
const metadataTagKey = `([0-9a-zA-Z\-_+=,.@:]{1,255})`

var metadataTagKeys = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("^" + metadataTagKey + "$") })

// MetadataTagKey reports whether a tag of that key can be shown in the metadata of its instance.
func MetadataTagKey(key string) bool {
	return metadataTagKeys().MatchString(key) && key != "." && key != ".." && key != "_index"
}

// ShowsTags refuses, as EC2 does, an instance whose metadata shall show its tags and that has one which cannot be shown: the
// owner chooses another key, or hides the tags.
func (i Instance) ShowsTags() error {
	if i.Metadata.InstanceTags != "enabled" {
		return nil
	}
	var bad []string
	for k := range i.Tags {
		if !MetadataTagKey(k) {
			bad = append(bad, k)
		}
	}
	if bad == nil {
		return nil
	}
	return Errorf("InvalidParameterValue", "'%.127s' is not a valid tag key. Tag keys must match pattern (%s), and must not be a reserved name ('.', '..', '_index')", slices.Min(bad), metadataTagKey)
}
