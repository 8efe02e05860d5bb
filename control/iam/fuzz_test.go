package iam

import (
	"testing"
	"time"
)

// A document that was accepted can be evaluated, and none lets a stranger in.
func FuzzTrust(f *testing.F) {
	f.Add(ec2Trust)
	f.Add(someTrust)
	f.Add(mayRun)
	f.Add(`{"Statement":{"Effect":"Allow","Principal":"*","Action":"sts:*","Condition":{"Null":{"a":"true"}}}}`)
	f.Fuzz(func(t *testing.T, document string) {
		accepted := checkTrust(document) == nil
		who := caller{service: "nobody.example"}
		if d, named := trusts(document, who, question{action: "sts:AssumeRole"}); d == Allowed || named {
			t.Errorf("%q lets %v in", document, who)
		}
		if d, _ := trusts(document, caller{account: "0", arns: []string{"a"}}, question{action: "ec2:RunInstances"}); d == Allowed && accepted {
			t.Errorf("%q allows an action that is not STS's", document)
		}
	})
}

func FuzzPolicy(f *testing.F) {
	f.Add(mayRun)
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","NotAction":"iam:*","NotResource":"arn:aws:s3:::x/${aws:username}"}]}`)
	f.Fuzz(func(t *testing.T, document string) {
		q := question{action: "ec2:RunInstances", resource: "*", facts: map[string][]string{"aws:username": {"a"}}}
		if checkPolicy(document, maxManaged) != nil && evaluate([]string{document}, q) == Allowed {
			t.Errorf("%q is refused when it is written and allows when it is evaluated", document)
		}
	})
}

// No token but the one that was minted is believed.
func FuzzToken(f *testing.F) {
	v, err := loadVault(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	good, err := v.mintToken(claims{ID: "ASIAGOOD", RoleName: "web", Expires: time.Now().Unix()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("ASIAGOOD", good)
	f.Add("ASIAOTHER", good)
	f.Add("", "AAAA")
	f.Fuzz(func(t *testing.T, id, token string) {
		if _, ok := v.readToken(id, token); ok && (id != "ASIAGOOD" || token != good) {
			t.Errorf("token %q of key %q is believed", token, id)
		}
	})
}
