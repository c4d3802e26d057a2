/* TLS from files that may be replaced while the server runs: certificates live for weeks, daemons for years.
 *
 * libmicrohttpd asks a callback for certificate and key at every handshake; it has no context argument, so the one
 * server with TLS that a process may have is kept in `serving`.  A handshake may still use what it was given when the
 * files are read again, so everything ever loaded lives until the server ends: some kilobytes a renewal.
 *
 * Threads: the callback runs on the HTTP thread; dd_tls_load on any one at a time.
 */
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

#define MAX_CHAIN 16
#define MAX_PEM_BYTES (1u << 20)

struct material {
    gnutls_pcert_st chain[MAX_CHAIN];
    unsigned n;
    gnutls_privkey_t key;
    struct material *older;
};

struct dd_tls {
    char *cert_path, *key_path;
    _Atomic(struct material *) now;
};

static _Atomic(struct dd_tls *) serving;

static void free_material(struct material *material) {
    for (unsigned i = 0; i < material->n; i++) {
        gnutls_pcert_deinit(&material->chain[i]);
    }
    gnutls_privkey_deinit(material->key);
    free(material);
}

static enum dd_status fail_tls(int rc, const char *path, struct dd_error *err) {
    return dd_fail(err, DD_INVALID, "tls_invalid", "%s: %s", path, gnutls_strerror(rc));
}

/* That they belong together is seen by putting both into credentials that are thrown away. */
static enum dd_status check_pair(const gnutls_datum_t *cert, const gnutls_datum_t *key, const struct dd_tls *tls,
                                 struct dd_error *err) {
    gnutls_certificate_credentials_t credentials;
    int rc = gnutls_certificate_allocate_credentials(&credentials);
    if (rc != GNUTLS_E_SUCCESS) {
        return fail_tls(rc, tls->cert_path, err);
    }
    rc = gnutls_certificate_set_x509_key_mem(credentials, cert, key, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(credentials);
    return rc < 0 ? dd_fail(err, DD_INVALID, "tls_invalid", "%s and %s must be PEM and belong together: %s",
                            tls->cert_path, tls->key_path, gnutls_strerror(rc))
                  : DD_OK;
}

static enum dd_status import(const gnutls_datum_t *cert, const gnutls_datum_t *key, const struct dd_tls *tls,
                             struct material **ret_material, struct dd_error *err) {
    struct material *material = dd_calloc(1, sizeof *material);
    if (material == NULL) {
        return dd_fail_memory(err, sizeof *material);
    }
    unsigned n = MAX_CHAIN;
    int rc = gnutls_pcert_list_import_x509_raw(material->chain, &n, cert, GNUTLS_X509_FMT_PEM, 0);
    material->n = rc == GNUTLS_E_SUCCESS ? n : 0;
    if (rc == GNUTLS_E_SUCCESS) {
        rc = gnutls_privkey_init(&material->key);
    }
    if (rc == GNUTLS_E_SUCCESS) {
        rc = gnutls_privkey_import_x509_raw(material->key, key, GNUTLS_X509_FMT_PEM, NULL, 0);
    }
    if (rc != GNUTLS_E_SUCCESS) {
        free_material(material);
        return fail_tls(rc, tls->cert_path, err);
    }
    *ret_material = material;
    return DD_OK;
}

enum dd_status dd_tls_load(struct dd_tls *tls, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *cert_pem = NULL;
    DD_CLEANUP(dd_free_ptr) char *key_pem = NULL;
    size_t cert_len = 0, key_len = 0;
    struct material *material = NULL;
    enum dd_status status = dd_file_read(tls->cert_path, MAX_PEM_BYTES, &cert_pem, &cert_len, err);
    if (status == DD_OK) {
        status = dd_file_read(tls->key_path, MAX_PEM_BYTES, &key_pem, &key_len, err);
    }
    gnutls_datum_t cert = {(unsigned char *)cert_pem, (unsigned)cert_len};
    gnutls_datum_t key = {(unsigned char *)key_pem, (unsigned)key_len};
    if (status == DD_OK) {
        status = check_pair(&cert, &key, tls, err);
    }
    if (status == DD_OK) {
        status = import(&cert, &key, tls, &material, err);
    }
    if (key_pem != NULL) {
        explicit_bzero(key_pem, key_len);
    }
    if (status == DD_OK) {
        material->older = atomic_load(&tls->now);
        atomic_store(&tls->now, material);
    }
    return status;
}

enum dd_status dd_tls_new(const char *cert_path, const char *key_path, struct dd_tls **ret_tls, struct dd_error *err) {
    struct dd_tls *tls = dd_calloc(1, sizeof *tls), *none = NULL;
    if (tls == NULL) {
        return dd_fail_memory(err, sizeof *tls);
    }
    tls->cert_path = dd_strdup(cert_path);
    tls->key_path = dd_strdup(key_path);
    enum dd_status status = tls->cert_path == NULL || tls->key_path == NULL ? dd_fail_memory(err, sizeof *tls) : DD_OK;
    if (status == DD_OK) {
        status = dd_tls_load(tls, err);
    }
    if (status == DD_OK && !atomic_compare_exchange_strong(&serving, &none, tls)) {
        status = dd_fail(err, DD_INTERNAL, "tls_twice", "a process can have one server with TLS");
    }
    if (status != DD_OK) {
        dd_tls_free(tls);
        return status;
    }
    *ret_tls = tls;
    return DD_OK;
}

void dd_tls_free(struct dd_tls *tls) {
    if (tls == NULL) {
        return;
    }
    struct dd_tls *expected = tls;
    (void)atomic_compare_exchange_strong(&serving, &expected, NULL);
    for (struct material *material = atomic_load(&tls->now), *older; material != NULL; material = older) {
        older = material->older;
        free_material(material);
    }
    free(tls->cert_path);
    free(tls->key_path);
    free(tls);
}

int dd_tls_retrieve(gnutls_session_t session, const gnutls_datum_t *issuers, int n_issuers,
                    const gnutls_pk_algorithm_t *algorithms, int n_algorithms, gnutls_pcert_st **ret_chain,
                    unsigned *ret_n, gnutls_privkey_t *ret_key) {
    (void)session;
    (void)issuers;
    (void)n_issuers;
    (void)algorithms;
    (void)n_algorithms;
    struct dd_tls *tls = atomic_load(&serving);
    if (tls == NULL) {
        return -1;
    }
    struct material *material = atomic_load(&tls->now);
    *ret_chain = material->chain;
    *ret_n = material->n;
    *ret_key = material->key;
    return 0;
}
