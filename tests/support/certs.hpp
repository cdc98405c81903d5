// Certificates made when a test runs: nothing to renew, nothing secret in the tree.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace cwsandbox::test {

/// An authority, and the certificates that it signs.
class Authority {
 public:
  explicit Authority(const std::string& name = "test authority") : key_(new_key()), certificate_(new_certificate(name, 0, 3600)) {
    X509_set_issuer_name(certificate_.get(), X509_get_subject_name(certificate_.get()));
    extend(certificate_.get(), NID_basic_constraints, "critical,CA:TRUE");
    X509_set_pubkey(certificate_.get(), key_.get());
    X509_sign(certificate_.get(), key_.get(), EVP_sha256());
  }

  void write_certificate(const std::string& file) const { write(file, certificate_.get(), nullptr); }

  /// A certificate with its key in the same file. `names` is in OpenSSL's form, "DNS:localhost,IP:127.0.0.1"; validity in
  /// seconds from now.
  void issue(const std::string& file, const std::string& names, long from = -60, long until = 3600) const {
    const Key key = new_key();
    const Certificate certificate = new_certificate("test server", from, until);
    X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate_.get()));
    extend(certificate.get(), NID_subject_alt_name, names.c_str());
    X509_set_pubkey(certificate.get(), key.get());
    X509_sign(certificate.get(), key_.get(), EVP_sha256());
    write(file, certificate.get(), key.get());
  }

  /// A certificate that nobody has signed but its own key.
  static void self_signed(const std::string& file, const std::string& names) {
    const Key key = new_key();
    const Certificate certificate = new_certificate("self-signed", -60, 3600);
    X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate.get()));
    extend(certificate.get(), NID_subject_alt_name, names.c_str());
    X509_set_pubkey(certificate.get(), key.get());
    X509_sign(certificate.get(), key.get(), EVP_sha256());
    write(file, certificate.get(), key.get());
  }

 private:
  struct Free {
    void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
    void operator()(X509* p) const { X509_free(p); }
  };
  using Key = std::unique_ptr<EVP_PKEY, Free>;
  using Certificate = std::unique_ptr<X509, Free>;

  static Key new_key() { return Key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256")); }

  static Certificate new_certificate(const std::string& name, long from, long until) {
    static long serial = 1;
    Certificate out(X509_new());
    X509_set_version(out.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(out.get()), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(out.get()), from);
    X509_gmtime_adj(X509_getm_notAfter(out.get()), until);
    const std::basic_string<unsigned char> text(name.begin(), name.end());
    X509_NAME_add_entry_by_txt(X509_get_subject_name(out.get()), "CN", MBSTRING_UTF8, text.data(), -1, -1, 0);
    return out;
  }

  static void extend(X509* certificate, int what, const char* value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, what, value);
    if (extension == nullptr) throw std::runtime_error(std::string("bad certificate extension ") + value);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }

  static void write(const std::string& file, X509* certificate, EVP_PKEY* key) {
    std::FILE* out = std::fopen(file.c_str(), "wb");
    if (out == nullptr) throw std::runtime_error("cannot write " + file);
    PEM_write_X509(out, certificate);
    if (key != nullptr) PEM_write_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(out);
  }

  Key key_;
  Certificate certificate_;
};

}  // namespace cwsandbox::test
