package leaky

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestUp(t *testing.T) {
	for _, status := range []int{200, 404, 429, 500, 503} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, http.StatusText(status), status)
			}))
			defer srv.Close()
			up, err := Up(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			if up != (status == http.StatusOK) {
				t.Errorf("status %d: up is %v", status, up)
			}
		})
	}
}
