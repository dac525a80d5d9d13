package auth

// Credentials are what is known of who makes a request, already verified: the kernel vouches for uid and
// gids, TLS for the certificate. A token is as presented.
type Credentials struct {
	UID  *uint32  // of the process on the Unix socket
	GIDs []uint32 // its group and supplementary groups
	// Certificate is the common name in the subject of the client certificate.
	Certificate string
	Token       string
	From        string // for the journal
}
