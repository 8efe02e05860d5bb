//go:build vm

package e2e

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

const trustAll = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}`

// said is what the object store answered.
type said struct {
	status int
	code   string // of an error
	body   string
}

func (s said) String() string { return fmt.Sprintf("%d %s", s.status, s.code) }

// root is the key of the account's root.
func (h *host) root() aws.Credentials {
	return aws.Credentials{AccessKeyID: h.key[0], SecretAccessKey: h.key[1]}
}

// s3 sends a request as it stands, signed by somebody or, with no key, by nobody. The path is escaped already.
func (h *host) s3(t *testing.T, who aws.Credentials, method, path string, body io.Reader, size int64) (said, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(noCancel(t), method, h.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	if who.AccessKeyID != "" {
		const hash = "UNSIGNED-PAYLOAD"
		req.Header.Set("X-Amz-Content-Sha256", hash)
		if err := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).SignHTTP(t.Context(), who, req, hash, "s3", h.region, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return said{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	var bad struct{ Code string }
	if resp.StatusCode >= 400 && method != http.MethodHead {
		if e := xml.Unmarshal(data, &bad); e != nil {
			t.Errorf("%s %.80s: %d is not an answer of S3: %q", method, path, resp.StatusCode, data)
		}
	}
	return said{resp.StatusCode, bad.Code, string(data)}, err
}

// object is s3 for what is small and must be answered.
func (h *host) object(t *testing.T, who aws.Credentials, method, path, body string) said {
	t.Helper()
	got, err := h.s3(t, who, method, path, strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatalf("%s %.80s: %v", method, path, err)
	}
	return got
}

// bucket makes a bucket, and removes it with all that is in it in the end.
func (h *host) bucket(t *testing.T, name string) {
	t.Helper()
	if got := h.object(t, h.root(), http.MethodPut, "/"+name, ""); got.status != http.StatusOK {
		t.Fatalf("make the bucket %s: %v", name, got)
	}
	t.Cleanup(func() {
		var list struct{ Contents []struct{ Key string } }
		if err := xml.Unmarshal([]byte(h.object(t, h.root(), http.MethodGet, "/"+name, "").body), &list); err != nil {
			t.Error(err)
		}
		for _, o := range list.Contents {
			h.object(t, h.root(), http.MethodDelete, "/"+name+"/"+o.Key, "")
		}
		if got := h.object(t, h.root(), http.MethodDelete, "/"+name, ""); got.status != http.StatusNoContent {
			t.Errorf("remove the bucket %s: %v", name, got)
		}
	})
}

func (h *host) assume(t *testing.T, role, policy string) aws.Credentials {
	t.Helper()
	in := &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::000000000000:role/" + role), RoleSessionName: aws.String("test")}
	if policy != "" {
		in.Policy = &policy
	}
	out, err := h.sts.AssumeRole(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	c := out.Credentials
	return aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}
}

// TestObjectsOfARole asks for what a role's policy, a session's and a bucket's allow and refuse.
func TestObjectsOfARole(t *testing.T) {
	h := the(t)
	h.bucket(t, "open-one")
	h.bucket(t, "shut-one")
	const role = "e2e-objects"
	if _, err := h.iam.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String(role), AssumeRolePolicyDocument: aws.String(trustAll)}); err != nil {
		t.Fatal(err)
	}
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::open-one","arn:aws:s3:::open-one/*"]},` +
		`{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::open-one/secret"}]}`
	if _, err := h.iam.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: aws.String(role), PolicyName: aws.String("one"), PolicyDocument: &policy}); err != nil {
		t.Fatal(err)
	}
	gone := func() {
		for _, policy := range []string{"one", "AWSRevokeOlderSessions"} {
			_, _ = h.iam.DeleteRolePolicy(noCancel(t), &iam.DeleteRolePolicyInput{RoleName: aws.String(role), PolicyName: &policy})
		}
		_, _ = h.iam.DeleteRole(noCancel(t), &iam.DeleteRoleInput{RoleName: aws.String(role)})
	}
	t.Cleanup(gone)
	full := h.assume(t, role, "")
	reading := h.assume(t, role, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":"*"}]}`)
	stolen := full
	stolen.SessionToken = reading.SessionToken
	wrong := full
	wrong.SecretAccessKey = reading.SecretAccessKey
	bucketPolicy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:role/` + role + `"},"Action":["s3:GetObject","s3:PutObject"],"Resource":"arn:aws:s3:::shut-one/for-the-role/*"},` +
		`{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::shut-one/for-all"}]}`
	for _, c := range []struct {
		name, method, path, body string
		who                      aws.Credentials
		status                   int
		code                     string
	}{
		{"the role writes into its bucket", "PUT", "/open-one/a%20b", "x", full, 200, ""},
		{"and reads it", "GET", "/open-one/a%20b", "", full, 200, ""},
		{"and lists it", "GET", "/open-one?list-type=2", "", full, 200, ""},
		{"a denial wins over what is allowed", "PUT", "/open-one/secret", "x", full, 403, "AccessDenied"},
		{"another bucket is refused", "GET", "/shut-one?list-type=2", "", full, 403, "AccessDenied"},
		{"so is writing there", "PUT", "/shut-one/x", "x", full, 403, "AccessDenied"},
		{"and the list of buckets", "GET", "/", "", full, 403, "AccessDenied"},
		{"and a bucket of its own", "PUT", "/new-one", "", full, 403, "AccessDenied"},
		{"a session reads as far as its own policy allows", "GET", "/open-one/a%20b", "", reading, 200, ""},
		{"and no further", "PUT", "/open-one/c", "x", reading, 403, "AccessDenied"},
		{"a key with another's token is refused", "GET", "/open-one/a%20b", "", stolen, 400, "InvalidToken"},
		{"a wrong secret is refused", "GET", "/open-one/a%20b", "", wrong, 403, "SignatureDoesNotMatch"},
		{"a key that nobody has is refused", "GET", "/open-one/a%20b", "", aws.Credentials{AccessKeyID: "AKIANOBODY", SecretAccessKey: "x"}, 403, "InvalidAccessKeyId"},
		{"who does not sign is refused", "GET", "/open-one/a%20b", "", aws.Credentials{}, 403, "AccessDenied"},
		{"the root sees all buckets", "GET", "/", "", h.root(), 200, ""},
		{"a bucket's policy cannot name a role that is not there", "PUT", "/shut-one?policy", strings.ReplaceAll(bucketPolicy, role, "nobody"), h.root(), 400, "MalformedPolicy"},
		{"it can name one that is", "PUT", "/shut-one?policy", bucketPolicy, h.root(), 204, ""},
		{"the role may what the bucket's policy gives it", "PUT", "/shut-one/for-the-role/x", "x", full, 200, ""},
		{"a session's own policy narrows that, too", "PUT", "/shut-one/for-the-role/x", "x", reading, 403, "AccessDenied"},
		{"what it does not give stays refused", "PUT", "/shut-one/other", "x", full, 403, "AccessDenied"},
		{"the root puts what all may read", "PUT", "/shut-one/for-all", "hello", h.root(), 200, ""},
		{"a policy may allow those who do not sign", "GET", "/shut-one/for-all", "", aws.Credentials{}, 200, ""},
		{"to read, not to write", "PUT", "/shut-one/for-all", "", aws.Credentials{}, 403, "AccessDenied"},
	} {
		got := h.object(t, c.who, c.method, c.path, c.body)
		if got.status != c.status || got.code != c.code {
			t.Errorf("%s: got %v, want %d %s", c.name, got, c.status, c.code)
		}
	}
	// Who revokes sessions has them refused at once, by what IAM's console puts into the role; later ones work.
	revoke := func(before time.Time) {
		t.Helper()
		deny := `{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:TokenIssueTime":"` + before.UTC().Format(time.RFC3339) + `"}}}}`
		if _, err := h.iam.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: aws.String(role), PolicyName: aws.String("AWSRevokeOlderSessions"), PolicyDocument: &deny}); err != nil {
			t.Fatal(err)
		}
	}
	revoke(time.Now().Add(time.Minute))
	if got := h.object(t, full, http.MethodGet, "/open-one/a%20b", ""); got.status != 403 || got.code != "AccessDenied" {
		t.Errorf("a session that is revoked: %v", got)
	}
	revoke(time.Now().Add(-time.Minute))
	if got := h.object(t, full, http.MethodGet, "/open-one/a%20b", ""); got.status != 200 {
		t.Errorf("a session that is younger than what is revoked: %v", got)
	}
	gone()
	if got := h.object(t, full, http.MethodGet, "/open-one/a%20b", ""); got.status < 400 || got.code != "InvalidToken" {
		t.Errorf("credentials of a role that is gone: %v, want InvalidToken", got)
	}
}

// chunked sends a body in pieces, each with a signature that leads on from the one before, as SDKs do that do not know the
// whole when they begin (AWS: "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks").
func (h *host) chunked(t *testing.T, who aws.Credentials, path string, pieces ...string) said {
	t.Helper()
	const hash = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	sum := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
	mac := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, h.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	req.Header.Set("X-Amz-Content-Sha256", hash)
	req.Header.Set("Content-Encoding", "aws-chunked")
	req.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(len(strings.Join(pieces, ""))))
	if err := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).SignHTTP(t.Context(), who, req, hash, "s3", h.region, now); err != nil {
		t.Fatal(err)
	}
	_, signature, _ := strings.Cut(req.Header.Get("Authorization"), "Signature=")
	scope := now.Format("20060102") + "/" + h.region + "/s3/aws4_request"
	key := []byte("AWS4" + who.SecretAccessKey)
	for word := range strings.SplitSeq(scope, "/") {
		key = mac(key, word)
	}
	var body strings.Builder
	for _, piece := range append(pieces, "") {
		signature = fmt.Sprintf("%x", mac(key, strings.Join([]string{"AWS4-HMAC-SHA256-PAYLOAD", now.Format("20060102T150405Z"), scope, signature, sum(""), sum(strings.TrimSuffix(piece, "forged"))}, "\n")))
		fmt.Fprintf(&body, "%x;chunk-signature=%s\r\n%s\r\n", len(piece), signature, piece)
	}
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body.String())), int64(body.Len())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var bad struct{ Code string }
	if err == nil && resp.StatusCode >= 400 {
		err = xml.Unmarshal(text, &bad)
	}
	if err != nil {
		t.Errorf("put %s in pieces: %v in %q", path, err, text)
	}
	return said{resp.StatusCode, bad.Code, string(text)}
}

// TestBodiesAreWhatWasSigned changes a body on its way, in every form that says what it is.
func TestBodiesAreWhatWasSigned(t *testing.T) {
	h := the(t)
	h.bucket(t, "bodies")
	large := strings.Repeat("x", 8192)
	if got := h.chunked(t, h.root(), "/bodies/whole", large, large, "end"); got.status != 200 {
		t.Errorf("pieces that are signed: %v", got)
	}
	if got := h.object(t, h.root(), http.MethodGet, "/bodies/whole", ""); got.body != large+large+"end" {
		t.Errorf("of signed pieces came %v, %d bytes", got, len(got.body))
	}
	if got := h.chunked(t, h.root(), "/bodies/forged", large, large[6:]+"forged", "end"); got.code != "SignatureDoesNotMatch" {
		t.Errorf("a piece that was changed: %v", got)
	}
	if got := h.object(t, h.root(), http.MethodGet, "/bodies/forged", ""); got.code != "NoSuchKey" {
		t.Errorf("of a piece that was changed there is %v", got)
	}
	client := s3.New(s3.Options{BaseEndpoint: &h.url, Region: h.region, UsePathStyle: true, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return h.root(), nil })})
	put := func(in s3.PutObjectInput) error {
		in.Bucket, in.Key, in.Body = aws.String("bodies"), aws.String("digest"), strings.NewReader("hello")
		_, err := client.PutObject(t.Context(), &in)
		return err
	}
	if err := put(s3.PutObjectInput{ContentMD5: aws.String("XUFAKrxLKna5cZ2REBfFkg==")}); err != nil {
		t.Errorf("with its digest: %v", err)
	}
	refused(t, put(s3.PutObjectInput{ContentMD5: aws.String("AAAAAAAAAAAAAAAAAAAAAA==")}), "BadDigest")
	refused(t, put(s3.PutObjectInput{ChecksumCRC32: aws.String("AAAAAA==")}), "BadDigest")
	for _, name := range []string{"CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"} {
		if err := put(s3.PutObjectInput{ChecksumAlgorithm: s3types.ChecksumAlgorithm(name)}); err != nil {
			t.Errorf("with %s: %v", name, err)
		}
	}
}

// TestHostileKeys sends names that would be paths elsewhere. Each is refused or names an object of its own, which can be read under
// its name and no other.
func TestHostileKeys(t *testing.T) {
	h := the(t)
	h.bucket(t, "hostile")
	secret := h.state("objects", "outside")
	if err := os.WriteFile(secret, []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(secret) })
	for _, key := range []string{
		"../outside", "../../outside", "%2e%2e/outside", "..%2foutside", "a/../../../outside", "a/..", "..", ".", "a/./b", "a//b", "%00", "a%00b", "..%00/x",
		"%2f%2fetc%2fpasswd", ".sgwtmp/x", ".sgwtmp/multipart/x", "%ff%fe", "%0a", "%5c..%5cx", strings.Repeat("k", 1025), strings.Repeat("x/", 512) + "y", strings.Repeat("n", 256),
	} {
		put := h.object(t, h.root(), http.MethodPut, "/hostile/"+key, "mine "+key)
		if put.status >= 500 {
			t.Errorf("put %.40q: %v", key, put)
		}
		got := h.object(t, h.root(), http.MethodGet, "/hostile/"+key, "")
		switch {
		case put.status == 200 && (got.status != 200 || got.body != "mine "+key):
			t.Errorf("%.40q was put, and read back it is %v %.40q", key, got, got.body)
		case put.status != 200 && got.status == 200 && !strings.HasPrefix(got.body, "<?xml"):
			t.Errorf("%.40q was refused (%v) and is there: %.40q", key, put, got.body)
		}
		h.object(t, h.root(), http.MethodDelete, "/hostile/"+key, "")
		if data, err := os.ReadFile(secret); err != nil || string(data) != "outside" {
			t.Fatalf("%.40q has reached what is outside: %q, %v", key, data, err)
		}
	}
	if got := h.object(t, h.root(), http.MethodPut, "/hostile/"+strings.Repeat("k", 1025), "x"); got.code != "KeyTooLongError" {
		t.Errorf("a key of 1,025 bytes: %v, want KeyTooLongError", got)
	}
	for _, name := range []string{"..", ".", ".sgwtmp", "data", "UPPER", "a", "%2e%2e"} {
		if got := h.object(t, h.root(), http.MethodPut, "/"+name+"/x", "x"); got.status < 400 || got.status >= 500 {
			t.Errorf("a put into the bucket %q: %v", name, got)
		}
	}
}

// TestObjectStoreDies ends the object store in the middle of an upload: what was there stays, what was half there is not, and
// its successor serves within the supervisor's time.
func TestObjectStoreDies(t *testing.T) {
	h := the(t)
	h.bucket(t, "deadly")
	const size = 64 << 20
	old := strings.Repeat("old ", 1<<18)
	if got := h.object(t, h.root(), http.MethodPut, "/deadly/kept", old); got.status != 200 {
		t.Fatal(got)
	}
	serves := func() error {
		if got := h.object(t, h.root(), http.MethodGet, "/deadly/kept", ""); got.status != 200 || got.body != old {
			return fmt.Errorf("what was there is %v, %d bytes", got, len(got.body))
		}
		return nil
	}
	for _, key := range []string{"kept", "fresh"} {
		await(t, "the object store answers", serves)
		body, feed := io.Pipe()
		half := make(chan struct{})
		go func() {
			piece := make([]byte, 1<<20)
			for n := 0; n < size; n += len(piece) {
				if n == size/2 {
					close(half)
				}
				if _, err := feed.Write(piece); err != nil {
					return
				}
			}
			feed.Close()
		}()
		ended := make(chan said, 1)
		go func() {
			got, err := h.s3(t, h.root(), http.MethodPut, "/deadly/"+key, body, size)
			if err != nil {
				got.code = err.Error()
			}
			ended <- got
		}()
		<-half
		h.kill(t, "s3")
		got := <-ended
		body.CloseWithError(io.ErrClosedPipe)
		if got.status == 200 {
			t.Errorf("the upload that was cut off was answered %v", got)
		}
	}
	await(t, "the object store answers", serves)
	if got := h.object(t, h.root(), http.MethodGet, "/deadly/fresh", ""); got.code != "NoSuchKey" {
		t.Errorf("half an object is there: %v, %d bytes", got, len(got.body))
	}
	if got := h.object(t, h.root(), http.MethodGet, "/deadly?list-type=2", ""); strings.Count(got.body, "<Key>") != 1 {
		t.Errorf("the bucket has not one object: %s", got.body)
	}
	// While nobody serves, the answer is one that S3's clients repeat.
	p, err := h.daemon("s3")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		got := h.object(t, h.root(), http.MethodGet, "/deadly/kept", "")
		if got.status == 200 {
			break
		}
		if got.status != http.StatusServiceUnavailable || got.code != "ServiceUnavailable" {
			t.Fatalf("while the object store is away: %v", got)
		}
	}
}

// TestFullDisk fills the object store's file system. What does not fit is refused, what is there stays, and room that is made is used.
func TestFullDisk(t *testing.T) {
	h, err := newHost()
	if err != nil {
		t.Fatal(err)
	}
	objects := h.state("objects")
	if err := os.MkdirAll(objects, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("objects", objects, "tmpfs", 0, "size=24m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.end(); err != nil {
			t.Error(err)
		}
		if err := syscall.Unmount(objects, 0); err != nil {
			t.Error(err)
		}
		os.RemoveAll(h.dir)
	})
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	if got := h.object(t, h.root(), http.MethodPut, "/small", ""); got.status != 200 {
		t.Fatal(got)
	}
	first := bytes.Repeat([]byte("1"), 10<<20)
	put := func(key string, body []byte) said {
		got, err := h.s3(t, h.root(), http.MethodPut, "/small/"+key, bytes.NewReader(body), int64(len(body)))
		if err != nil {
			got.code = err.Error()
		}
		return got
	}
	if got := put("first", first); got.status != 200 {
		t.Fatal(got)
	}
	if got := put("second", bytes.Repeat([]byte("2"), 20<<20)); got.status < 500 {
		t.Errorf("what does not fit: %v", got)
	}
	if got := h.object(t, h.root(), http.MethodGet, "/small/second", ""); got.code != "NoSuchKey" {
		t.Errorf("half of what does not fit is there: %v", got)
	}
	if got := h.object(t, h.root(), http.MethodGet, "/small/first", ""); got.body != string(first) {
		t.Errorf("what was there: %v, %d bytes", got, len(got.body))
	}
	if got := h.object(t, h.root(), http.MethodDelete, "/small/first", ""); got.status != http.StatusNoContent {
		t.Errorf("nothing can be removed from a full disk: %v", got)
	}
	if got := put("second", bytes.Repeat([]byte("2"), 20<<20)); got.status != 200 {
		t.Errorf("into the room that was made: %v", got)
	}
	// Another supervisor finds everything as it was.
	if err := h.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	if got := h.object(t, h.root(), http.MethodGet, "/small/second", ""); len(got.body) != 20<<20 {
		t.Errorf("after a restart: %v, %d bytes", got, len(got.body))
	}
}
