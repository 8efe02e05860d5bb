package ticket

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

var (
	hosts = bytes.Repeat([]byte{7}, 32)
	at    = time.Unix(1764406800, 0)
	asked = Request{Instance: "i-00000000000000001", Audience: "https://vault.example/?a=b&c", Nonce: "n 1", Life: DefaultLife, At: at}
)

func TestARequestComesBackAsItWasAsked(t *testing.T) {
	query, auth := asked.Sign(Of(hosts, asked.Instance))
	got, err := Verify(hosts, query, auth, at.Add(time.Minute))
	if err != nil || got != asked {
		t.Errorf("got %+v, %v, want %+v", got, err, asked)
	}
	if secret := string(Of(hosts, asked.Instance)); strings.Contains(query+auth, secret) {
		t.Error("the request holds its ticket")
	}
}

func TestOnlyTheInstancesHostCanAsk(t *testing.T) {
	mine := Of(hosts, asked.Instance)
	query, auth := asked.Sign(mine)
	_, ofAnother := asked.Sign(Of(hosts, "i-00000000000000002"))
	_, ofStranger := asked.Sign(Of(bytes.Repeat([]byte{8}, 32), asked.Instance))
	for _, c := range []struct {
		name, query, auth string
		now               time.Time
	}{
		{"no signature", query, "", at},
		{"another scheme", query, "Bearer " + strings.TrimPrefix(auth, scheme), at},
		{"another instance's ticket", query, ofAnother, at},
		{"another cloud's key", query, ofStranger, at},
		{"another instance named", strings.Replace(query, "01", "02", 1), auth, at},
		{"another audience", strings.Replace(query, "vault", "fault", 1), auth, at},
		{"a longer life", strings.Replace(query, "ttl=900", "ttl=3600", 1), auth, at},
		{"a second audience", query + "&audience=x", auth, at},
		{"asked too long ago", query, auth, at.Add(fresh + time.Second)},
		{"asked in the future", query, auth, at.Add(-fresh - time.Second)},
		{"no query", "", auth, at},
		{"a broken escape", query + "%", auth, at},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := Verify(hosts, c.query, c.auth, c.now); err != ErrForged {
				t.Errorf("got %+v, %v, want %v", got, err, ErrForged)
			}
		})
	}
}

func TestWhatNoTokenMaySayIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Request)
		want   string
	}{
		{"as it is", func(*Request) {}, ""},
		{"no nonce", func(r *Request) { r.Nonce = "" }, ""},
		{"no audience", func(r *Request) { r.Audience = "" }, "audience is missing"},
		{"an audience too long", func(r *Request) { r.Audience = strings.Repeat("a", 513) }, "audience: at most"},
		{"an audience of two lines", func(r *Request) { r.Audience = "a\nb" }, "audience: at most"},
		{"a nonce that is not text", func(r *Request) { r.Nonce = "\xff" }, "nonce: at most"},
		{"a life of a second", func(r *Request) { r.Life = time.Second }, "ttl: 60 to 3600"},
		{"a life of a day", func(r *Request) { r.Life = 24 * time.Hour }, "ttl: 60 to 3600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := asked
			c.change(&r)
			err := r.Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	query, auth := asked.Sign(Of(hosts, asked.Instance))
	f.Add(query, auth)
	f.Add("instance=i-00000000000000001&audience=%zz", scheme)
	f.Fuzz(func(t *testing.T, q, a string) {
		if got, err := Verify(hosts, q, a, at); err == nil && (q != query || got != asked) {
			t.Errorf("%q is taken for %+v", q, got)
		}
	})
}
