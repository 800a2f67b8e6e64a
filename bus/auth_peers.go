package bus

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// Peers is how nodes talk to each other beside the bus: both ends show a certificate of the authority that is made for one
// of the given roles. The certificates of nodes name no hosts, so hosts are not checked; who may talk is decided by what
// the nodes agree on over the bus. It is nil without certificates.
func (s *Security) Peers(roles ...string) (*tls.Config, error) {
	c, err := s.tls()
	if err != nil || c == nil {
		return nil, err
	}
	if c.RootCAs == nil || len(c.Certificates) == 0 {
		return nil, schemas.Errorf(schemas.KindInvalid, "TLS", "nodes that talk to each other need tls_ca, tls_cert and tls_key").WithParam("tls_ca")
	}
	c.InsecureSkipVerify = true // of host names; VerifyConnection does the rest
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return fmt.Errorf("bus: the other side shows no certificate")
		}
		leaf, between := state.PeerCertificates[0], x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			between.AddCert(cert)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.RootCAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return err
		}
		if name := leaf.Subject.CommonName; !slices.Contains(roles, name) {
			return fmt.Errorf("bus: the other side's certificate is for %.80q, not for one of %q", name, roles)
		}
		return nil
	}
	return c, nil
}
