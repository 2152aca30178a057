package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/webtoken"
)

func newDashboard(dockerCli command.Cli) *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "dashboard [OPTIONS]",
		Short: "Show the engine's storage in a browser",
		Long: `Bring the engine's dashboard to a TCP port of this machine, until Ctrl-C, and print
its address. The address holds a token, made anew each time, without which nothing
is answered.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDashboard(cmd.Context(), dockerCli, listen)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "Address and port to listen on; 0 for any free port")
	return cmd
}

func runDashboard(ctx context.Context, dockerCli command.Cli, listen string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	token := rand.Text()
	dial := dockerCli.Client().Dialer()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "holdfast", Path: api.PathDashboard})
			r.Out.Header.Del("Cookie")
		},
		FlushInterval: -1, // the stream of changes
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the engine does not answer: "+err.Error(), http.StatusBadGateway)
		},
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("%s is not a TCP address", l.Addr())
	}
	// Browsers keep cookies by host, and several dashboards may run on one.
	cookie := "holdfast-dashboard-" + strconv.Itoa(addr.Port)
	srv := &http.Server{Handler: webtoken.Require(token, cookie, "`holdfast dashboard` printed it", proxy), ReadHeaderTimeout: 10 * time.Second}
	host := addr.String()
	if addr.IP.IsUnspecified() {
		host = net.JoinHostPort("localhost", strconv.Itoa(addr.Port))
	}
	fmt.Fprintf(dockerCli.Out(), "http://%s/?token=%s\n", host, token)
	if !addr.IP.IsLoopback() {
		fmt.Fprintln(dockerCli.Err(), "WARNING: the dashboard can be reached from other machines, and what it says, the token too, is not encrypted.")
	}
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { closed <- srv.Close() })
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) || stop() {
		return err
	}
	return <-closed
}
