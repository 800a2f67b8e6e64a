package bus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/troupe-engine/troupe/schemas"
)

// Keys are what several machines need to know each other: file contents by name. Nothing in them is known to
// anybody else.
//
//	ca.pem                        the authority; its key is not kept: make new Keys to add machines
//	hub.pem, hub-key.pem          the node that others join
//	hub.conf                      its NATS configuration: who may do what
//	ROLE.pem, ROLE-key.pem        for programs with a role
//	ROLE.nk                       their nkey seed
type Keys map[string][]byte

// KeysConfig says what for.
type KeysConfig struct {
	Hosts []string // names and addresses under which others reach the hub, at least one
	Dir   string   // where the hub finds the files, for hub.conf
	Valid time.Duration
	// Tenants are clients that see nothing of each other; their role is TenantRole.
	Tenants []string
}

// tenantName is part of a file's name and of a subject.
var tenantName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// roles are all that get keys.
func (c *KeysConfig) roles() ([]Role, error) {
	roles := Roles()
	for i, name := range c.Tenants {
		if !tenantName.MatchString(name) || slices.Contains(c.Tenants[:i], name) {
			return nil, schemas.Errorf(schemas.KindInvalid, "make keys", "a tenant is %.80q; expected different names of lower-case letters, digits and hyphens, at most 63", name).WithParam("tenant")
		}
		roles = append(roles, TenantRole(name))
	}
	return roles, nil
}

// KeysValidDefault is how long certificates are valid.
const KeysValidDefault = 2 * 365 * 24 * time.Hour

// MakeKeys makes an authority, certificates and an nkey for each role.
func MakeKeys(cfg KeysConfig) (Keys, error) {
	if len(cfg.Hosts) == 0 {
		return nil, schemas.Errorf(schemas.KindInvalid, "make keys", "no host name").WithParam("host").
			WithHint("name what other machines call the hub, as hub.example.org or 10.0.0.7")
	}
	if cfg.Valid == 0 {
		cfg.Valid = KeysValidDefault
	}
	roles, err := cfg.roles()
	if err != nil {
		return nil, err
	}
	a, err := newAuthority(cfg.Valid)
	if err != nil {
		return nil, fmt.Errorf("bus: make keys: %w", err)
	}
	keys := Keys{"ca.pem": a.pem}
	if err := a.issue(keys, "hub", cfg.Hosts); err != nil {
		return nil, fmt.Errorf("bus: make keys: %w", err)
	}
	public := map[string]string{}
	for _, r := range roles {
		if err := a.issue(keys, r.Name, nil); err != nil {
			return nil, fmt.Errorf("bus: make keys: %w", err)
		}
		pair, err := nkeys.CreateUser()
		if err != nil {
			return nil, fmt.Errorf("bus: make keys: %w", err)
		}
		seed, seedErr := pair.Seed()
		if public[r.Name], err = pair.PublicKey(); err != nil || seedErr != nil {
			return nil, fmt.Errorf("bus: make keys: %w, %w", err, seedErr)
		}
		keys[r.Name+".nk"] = append(seed, '\n')
	}
	keys["hub.conf"] = []byte(hubConfig(cfg.Dir, roles, public))
	return keys, nil
}

// NewKey makes an nkey for one process to join another: the public part for Options.LeafKey, the seed for
// Security.SeedText.
func NewKey() (public, seed string, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", "", fmt.Errorf("bus: make a key: %w", err)
	}
	raw, err := pair.Seed()
	if err != nil {
		return "", "", fmt.Errorf("bus: make a key: %w", err)
	}
	if public, err = pair.PublicKey(); err != nil {
		return "", "", fmt.Errorf("bus: make a key: %w", err)
	}
	return public, string(raw), nil
}

// hubConfig is the NATS configuration of the node that others join. Its --leaf says where.
func hubConfig(dir string, roles []Role, public map[string]string) string {
	tls := fmt.Sprintf(`{
  cert_file: %q
  key_file: %q
  ca_file: %q
  verify: true
  timeout: %d
}`, dir+"/hub.pem", dir+"/hub-key.pem", dir+"/ca.pem", int(tlsTimeout.Seconds()))
	var users strings.Builder
	for _, r := range roles {
		fmt.Fprintf(&users, "  # %s: %s\n  {nkey: %s, permissions: {\n    publish: [%s]\n    subscribe: [%s]\n    allow_responses: %v}}\n",
			r.Name, r.Doc, public[r.Name], quoted(r.Publish), quoted(r.Subscribe), r.Answer)
	}
	return fmt.Sprintf(`# Made by troupe keys. Who joins or connects needs a certificate of ca.pem and one of the keys below.
listen: "127.0.0.1:4222" # --nats-listen 0.0.0.0:4222 lets clients on other machines in
max_payload: 8MB
max_pending: 256MB
write_deadline: "10s"
tls %s
leafnodes {tls %s}
authorization {users: [
%s]}
`, tls, tls, users.String())
}

func quoted(list []string) string {
	q := make([]string, len(list))
	for i, s := range list {
		q[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(q, ", ")
}

// authority signs certificates.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	pem   []byte
	until time.Time
}

// clockSkewMax is how much the clocks of machines may differ for a new certificate to be valid on all.
const clockSkewMax = time.Hour

func newAuthority(valid time.Duration) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{key: key, until: time.Now().Add(valid)}
	template := a.template("troupe")
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero, template.KeyUsage = true, true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a, nil
}

func (a *authority) template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails (crypto/rand)
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-clockSkewMax), NotAfter: a.until}
}

// issue adds a certificate and its key. Hosts are what others call its holder; without any it only calls others.
func (a *authority) issue(keys Keys, name string, hosts []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := a.template(name)
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, h := range hosts {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	keys[name+".pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keys[name+"-key.pem"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	return nil
}
