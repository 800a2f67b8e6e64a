package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"os"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Limits of API keys.
const (
	APIKeysMax     = 10_000
	apiKeyBytesMin = 8
	apiKeyBytesMax = 512
	keyFileMax     = 8 << 20 // bytes
)

// ParseAPIKeys reads a list of API keys: separated by commas, or "@" and the name of a file that has one per line,
// where empty lines and lines that start with # say nothing.
func ParseAPIKeys(list string) ([]string, error) {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "configuration", format, args...).WithParam("api_keys")
	}
	separator := ","
	if file, ok := strings.CutPrefix(list, "@"); ok {
		info, err := os.Stat(file)
		if err == nil && (info.IsDir() || info.Size() > keyFileMax) {
			return nil, bad("api_keys: %s is a directory or larger than %d bytes; expected a file with a key per line", file, keyFileMax)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, bad("api_keys: %v", err)
		}
		list, separator = string(raw), "\n"
	}
	var keys []string
	for _, key := range strings.Split(list, separator) {
		if key = strings.TrimSpace(key); key != "" && !strings.HasPrefix(key, "#") {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 && list != "" {
		return nil, bad("api_keys names no key; leave it out to serve everybody")
	}
	return keys, checkKeys(keys)
}

func checkKeys(keys []string) error {
	if len(keys) > APIKeysMax {
		return schemas.Errorf(schemas.KindInvalid, "configuration", "there are %d API keys; expected at most %d", len(keys), APIKeysMax).WithParam("api_keys")
	}
	for i, key := range keys { // the key itself must not be shown
		if len(key) < apiKeyBytesMin || len(key) > apiKeyBytesMax || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return schemas.Errorf(schemas.KindInvalid, "configuration", "API key %d has %d bytes; expected %d to %d visible ASCII characters", i+1, len(key), apiKeyBytesMin, apiKeyBytesMax).
				WithParam("api_keys")
		}
	}
	return nil
}

// keyring knows the API keys by their digests, which are of one length, so that comparing tells nothing about a key.
type keyring [][sha256.Size]byte

func newKeyring(keys []string) keyring {
	ring := make(keyring, len(keys))
	for i, key := range keys {
		ring[i] = sha256.Sum256([]byte(key))
	}
	return ring
}

// name returns a public name for a key, if the ring has it. Every key is compared, whichever it is.
func (ring keyring) name(key string) (string, bool) {
	digest := sha256.Sum256([]byte(key))
	found := 0
	for i := range ring {
		found |= subtle.ConstantTimeCompare(ring[i][:], digest[:])
	}
	return "key-" + hex.EncodeToString(digest[:6]), found == 1
}

type (
	keyName  struct{} // of a context's value: the name of the request's key
	adminKey struct{} // likewise: whether it is an admin key
)

func keyOf(ctx context.Context) string {
	name, _ := ctx.Value(keyName{}).(string)
	return name
}

// mayAdminister refuses requests without an admin key where there are keys at all.
func (g *Gateway) mayAdminister(ctx context.Context, what string) *schemas.Error {
	if admin, _ := ctx.Value(adminKey{}).(bool); admin || len(g.cfg.APIKeys)+len(g.cfg.AdminKeys) == 0 {
		return nil
	}
	return schemas.Errorf(schemas.KindUnauthorized, schemas.OpKey, "%s takes an admin key", what).WithHint("send one of those that the engine was given as admin_keys (--admin-keys)")
}

// withKeys lets requests through that carry an API key, as "Authorization: Bearer KEY", or need none.
func (g *Gateway) withKeys(next http.Handler) http.Handler {
	admins := newKeyring(g.cfg.AdminKeys)
	ring := append(newKeyring(g.cfg.APIKeys), admins...)
	if len(ring) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		key = strings.TrimSpace(key)
		if key == "" && g.keyless(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		name, known := ring.name(key)
		if known = known && strings.EqualFold(scheme, "Bearer"); !known && !g.keyless(r.URL.Path) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			detail := "the API key is not known here"
			if key == "" {
				detail = "there is no API key"
			}
			g.writeError(w, schemas.Errorf(schemas.KindUnauthorized, schemas.OpKey, "%s", detail).WithHint("send the header Authorization: Bearer KEY"))
			return
		}
		if known {
			_, admin := admins.name(key)
			r = r.WithContext(context.WithValue(context.WithValue(r.Context(), keyName{}, name), adminKey{}, admin))
		}
		next.ServeHTTP(w, r)
	})
}

// keyless reports whether a path, or a folder that it is in, needs no key.
func (g *Gateway) keyless(path string) bool {
	for _, free := range g.cfg.KeylessPaths {
		if path == free || strings.HasPrefix(path, free+"/") {
			return true
		}
	}
	return false
}
