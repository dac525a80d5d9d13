package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/sirupsen/logrus"
	"sigs.k8s.io/yaml"

	"github.com/privlink/privlink/pkg/server"
	"github.com/privlink/privlink/pkg/webhook"
)

// config is the daemon's configuration file (YAML or JSON). Everything may be left out.
type config struct {
	// SocketMode is who may connect to the Unix socket, octal; default "0600". Who connects is known by uid and gid:
	// a wider mode is needed for principals other than root, and gives nothing to those who are none.
	SocketMode string `json:"socketMode"`
	// Listen are TCP addresses that are answered on besides the socket.
	Listen []listenConfig `json:"listen"`
	// Webhooks are told of connection requests and decisions (see pkg/webhook).
	Webhooks []webhookConfig `json:"webhooks"`
	// AliasSuffix are the last two labels of aliases; default azure.privatelinkservice.
	AliasSuffix string `json:"aliasSuffix"`
	// Flows is the size of the flow table in pairs; default 262144, or what the table has that is there. A start with
	// another number carries the flows over.
	Flows uint32 `json:"flows"`
	// ProxyConnections is how many connections of PROXY services there may be; default as many as the limit
	// of descriptors allows (8,432 of 20,000). More than that is an error at the start.
	ProxyConnections int `json:"proxyConnections"`
	// ProxyConnectionsPerLink bounds those of one link; default all but one in twenty of ProxyConnections. The link's
	// flows bound them, too.
	ProxyConnectionsPerLink int `json:"proxyConnectionsPerLink"`
	// LogLevel is error, warn, info or debug; default info.
	LogLevel string `json:"logLevel"`
	// LogFormat is text or json; default text.
	LogFormat string `json:"logFormat"`
}

// listenConfig is one TCP address with its certificates (PEM files).
type listenConfig struct {
	Address     string `json:"address"` // HOST:PORT
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	ClientCA    string `json:"clientCA"`
}

// webhookConfig is one receiver; white space around the secret in its file is ignored.
type webhookConfig struct {
	URL        string `json:"url"`
	SecretFile string `json:"secretFile"`
}

// hooks are the webhooks with their secrets.
func (c config) hooks() ([]webhook.Hook, error) {
	var list []webhook.Hook
	for _, w := range c.Webhooks {
		secret, err := os.ReadFile(w.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("configuration: secret of webhook %s: %w", w.URL, err)
		}
		hook := webhook.Hook{URL: w.URL, Secret: bytes.TrimSpace(secret)}
		if err := hook.Check(); err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		list = append(list, hook)
	}
	return list, nil
}

// readConfig reads a configuration file; an empty name is the defaults. Unknown settings are refused.
func readConfig(name string) (config, error) {
	c := config{SocketMode: "0600", LogLevel: "info", LogFormat: "text"}
	if name == "" {
		return c, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		return c, fmt.Errorf("read configuration %s: %w", name, err)
	}
	if c.ProxyConnections < 0 || c.ProxyConnectionsPerLink < 0 {
		return c, fmt.Errorf("configuration: proxyConnections %d and proxyConnectionsPerLink %d may not be negative (0 is the default)", c.ProxyConnections, c.ProxyConnectionsPerLink)
	}
	return c, nil
}

// socketMode is SocketMode as permission bits.
func (c config) socketMode() (fs.FileMode, error) {
	mode, err := strconv.ParseUint(c.SocketMode, 8, 32)
	if err != nil || mode > 0o777 {
		return 0, fmt.Errorf("configuration: socketMode %q is not an octal mode such as 0660", c.SocketMode)
	}
	return fs.FileMode(mode), nil
}

// logger makes the daemon's logger.
func (c config) logger(env *environment) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(env.stderr)
	level, err := logrus.ParseLevel(c.LogLevel)
	if err != nil {
		return nil, fmt.Errorf("configuration: logLevel %q is not one of error, warn, info, debug", c.LogLevel)
	}
	log.SetLevel(level)
	switch c.LogFormat {
	case "text":
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{})
	default:
		return nil, fmt.Errorf("configuration: logFormat %q is not one of text, json", c.LogFormat)
	}
	return log, nil
}

// tcp are the TCP addresses as the server takes them.
func (c config) tcp() []server.TCPOptions {
	var list []server.TCPOptions
	for _, l := range c.Listen {
		list = append(list, server.TCPOptions{Address: l.Address, CertFile: l.Certificate, KeyFile: l.Key, ClientCAFile: l.ClientCA})
	}
	return list
}
