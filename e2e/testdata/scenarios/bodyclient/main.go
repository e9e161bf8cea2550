// Bodyclient fetches a page for each line of its input and never closes the body.
//
//	bodyclient URL direct|transport [close]
//
// "direct" opens each connection in the caller's goroutine, by a RoundTripper of its own;
// "transport" is that of net/http, which dials in a goroutine of its own. With "close" the
// bodies are closed: the same client without the bug.
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
)

// direct is a client without a pool: a connection for each request.
type direct struct{}

func (direct) RoundTrip(r *http.Request) (*http.Response, error) {
	conn, err := net.Dial("tcp", r.URL.Host)
	if err != nil {
		return nil, err
	}
	if err := r.Write(conn); err != nil {
		conn.Close()
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err == nil {
		resp.Body = &body{resp.Body, conn}
	}
	return resp, err
}

// body closes the connection with itself.
type body struct {
	reader interface{ Read([]byte) (int, error) }
	conn   net.Conn
}

func (b *body) Read(p []byte) (int, error) { return b.reader.Read(p) }
func (b *body) Close() error               { return b.conn.Close() }

// seen keeps what was fetched, so that the collector does not close it.
var seen []*http.Response

// fetchInventory wants the status only, and forgets that there is a body.
//
//go:noinline
func fetchInventory(c *http.Client, url string, closes bool) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	if closes {
		return resp.Body.Close()
	}
	seen = append(seen, resp)
	return nil
}

func main() {
	client := http.DefaultClient
	if os.Args[2] == "direct" {
		client = &http.Client{Transport: direct{}}
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := fetchInventory(client, os.Args[1], len(os.Args) > 3); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("fetched", len(seen))
	}
}
