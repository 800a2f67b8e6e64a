package gateway

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	corsMethods      = "GET, POST, OPTIONS"
	corsHeadersMax   = 4096  // bytes of a preflight's wishes that are granted
	corsAgeSeconds   = 86400 // that a browser may remember a preflight
	corsExposed      = "X-Request-Id, Retry-After"
	corsHeadersPlain = "Authorization, Content-Type"
)

// withCORS lets pages of the configured origins use the API from a browser (https://fetch.spec.whatwg.org/#http-cors-protocol).
// It allows no credentials: keys travel in a header that a page sets itself. /debug, where state can be changed, is
// left out.
func (g *Gateway) withCORS(next http.Handler) http.Handler {
	if len(g.cfg.CORSOrigins) == 0 {
		return next
	}
	all := slices.Contains(g.cfg.CORSOrigins, "*")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/debug" || strings.HasPrefix(r.URL.Path, "/debug/") {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		origin := r.Header.Get("Origin")
		allowed := origin != "" && (all || slices.Contains(g.cfg.CORSOrigins, origin))
		switch {
		case all:
			h.Set("Access-Control-Allow-Origin", "*")
		case allowed:
			h.Set("Access-Control-Allow-Origin", origin)
		}
		if !all {
			h.Add("Vary", "Origin")
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" && allowed {
			wished := r.Header.Get("Access-Control-Request-Headers")
			if wished == "" || len(wished) > corsHeadersMax {
				wished = corsHeadersPlain
			}
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", wished)
			h.Set("Access-Control-Max-Age", strconv.Itoa(corsAgeSeconds))
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.Set("Access-Control-Expose-Headers", corsExposed)
		next.ServeHTTP(w, r)
	})
}
