package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// Authority issues certificates that end with the lab.
type Authority struct {
	File string // its own certificate (PEM), for those who check others

	lab  *Lab
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Authority makes a certificate authority.
func (l *Lab) Authority() *Authority {
	l.tb.Helper()
	a := &Authority{lab: l}
	a.cert, a.key, a.File, _ = a.issue("authority", nil)
	return a
}

// Issue makes a certificate for a client or, with its addresses, a server, and writes it and its key as PEM files.
func (a *Authority) Issue(name string, ips ...net.IP) (certFile, keyFile string) {
	a.lab.tb.Helper()
	_, _, certFile, keyFile = a.issue(name, ips)
	return certFile, keyFile
}

// issue signs with the authority's key, or for an authority that has none yet with the key made.
func (a *Authority) issue(name string, ips []net.IP) (cert *x509.Certificate, key *ecdsa.PrivateKey, certFile, keyFile string) {
	a.lab.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.lab.fatal("make a key for", name, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: ips,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: a.cert == nil,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.lab.fatal("issue a certificate for", name, err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		a.lab.fatal("read the certificate of", name, err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.lab.fatal("write the key of", name, err)
	}
	certFile = a.lab.WriteFile(name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyFile = a.lab.WriteFile(name+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
	return cert, key, certFile, keyFile
}
