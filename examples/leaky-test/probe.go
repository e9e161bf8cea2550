// Package leaky asks services whether they are up, and forgets to close the answers.
package leaky

import "net/http"

// Up reports whether the service at url answers its health check with 200.
func Up(url string) (bool, error) {
	resp, err := http.Get(url + "/healthz")
	if err != nil {
		return false, err
	}
	return resp.StatusCode == http.StatusOK, nil
}
