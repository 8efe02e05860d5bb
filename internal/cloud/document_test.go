package cloud

import "testing"

func TestAVersionIsMeantByNumberWordOrName(t *testing.T) {
	d := Document{Name: "doc", Default: 2, Last: 4, Versions: []DocumentVersion{{Number: 1, Name: "old"}, {Number: 2}, {Number: 4, Name: "new"}}}
	for name, c := range map[string]struct {
		version, called string
		want            int // 0: there is none
	}{
		"nothing is the default":                {"", "", 2},
		"the default by its word":               {"$DEFAULT", "", 2},
		"the latest by its word":                {"$LATEST", "", 4},
		"a number":                              {"1", "", 1},
		"a number that was deleted":             {"3", "", 0},
		"a number with a zero before is itself": {"01", "", 1},
		"no number":                             {"one", "", 0},
		"a name":                                {"", "old", 1},
		"an unknown name":                       {"", "older", 0},
		"a name and its number":                 {"4", "new", 4},
		"a name and another's number":           {"1", "new", 0},
	} {
		got, err := d.Version(c.version, c.called)
		if got.Number != c.want || (c.want == 0) != (Code(err) == "InvalidDocumentVersion") {
			t.Errorf("%s: got version %d, %v, want %d", name, got.Number, err, c.want)
		}
	}
}

func TestVersionsAreNumberedForGood(t *testing.T) {
	d := Document{Name: "doc", Default: 1, Last: 1, Versions: []DocumentVersion{{Number: 1, Sha256: "a", Name: "first"}}}
	two, err := d.Update(DocumentVersion{Sha256: "b"})
	if err != nil || two.Last != 2 || two.Default != 1 || len(d.Versions) != 1 {
		t.Fatalf("got %+v, %v", two, err)
	}
	back, err := two.Without(2)
	if err != nil || len(back.Versions) != 1 || len(two.Versions) != 2 {
		t.Fatalf("got %+v, %v", back, err)
	}
	if three, err := back.Update(DocumentVersion{Sha256: "b"}); err != nil || three.Versions[1].Number != 3 {
		t.Errorf("the number of a deleted version is given again: %+v, %v", three, err)
	}
	full := d
	full.Last = MaxDocumentVersions
	for name, c := range map[string]struct {
		err  error
		code string
	}{
		"the default cannot be deleted": {second(two.Without(1)), "InvalidDocumentOperation"},
		"the same content again":        {second(d.Update(DocumentVersion{Sha256: "a"})), "DuplicateDocumentContent"},
		"the same name again":           {second(two.Update(DocumentVersion{Sha256: "c", Name: "first"})), "DuplicateDocumentVersionName"},
		"one too many":                  {second(full.Update(DocumentVersion{Sha256: "c"})), "DocumentVersionLimitExceeded"},
	} {
		if Code(c.err) != c.code {
			t.Errorf("%s: got %v, want %s", name, c.err, c.code)
		}
	}
}

func second(_ Document, err error) error { return err }
