// SCRAM-SHA-256 verifiers, computed with OpenSSL.
#include "orchestrator/postgres/scram.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <array>
#include <regex>

#include "orchestrator/base/error.h"
#include "orchestrator/postgres/postgres.h"

namespace bpg::postgres {

namespace {

constexpr int kIterations = 4096;       // what PostgreSQL itself uses
constexpr std::size_t kSaltBytes = 16;  // likewise

using Digest = std::array<unsigned char, SHA256_DIGEST_LENGTH>;

void require(bool worked, const char* what) {
    if (!worked) {
        throw Error(ErrorKind::kInternal, "crypto_failed", "cannot compute a SCRAM verifier", what);
    }
}

Digest hmac(const Digest& key, std::string_view text) {
    Digest out{};
    unsigned int length = 0;
    const std::basic_string<unsigned char> bytes(text.begin(), text.end());
    require(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes.data(), bytes.size(),
                 out.data(), &length) != nullptr,
            "HMAC failed");
    return out;
}

std::string base64(const unsigned char* data, std::size_t size) {
    std::basic_string<unsigned char> out(4 * ((size + 2) / 3) + 1, '\0');
    const int length = EVP_EncodeBlock(out.data(), data, static_cast<int>(size));
    return {out.begin(), out.begin() + length};
}

}  // namespace

std::string scram_verifier_with_salt(const Secret& password, std::string_view salt,
                                     int iterations) {
    const std::basic_string<unsigned char> salt_bytes(salt.begin(), salt.end());
    const std::string& text = password.reveal();
    Digest salted{};
    require(PKCS5_PBKDF2_HMAC(text.data(), static_cast<int>(text.size()), salt_bytes.data(),
                              static_cast<int>(salt_bytes.size()), iterations, EVP_sha256(),
                              static_cast<int>(salted.size()), salted.data()) == 1,
            "PBKDF2 failed");
    Digest client_key = hmac(salted, "Client Key");
    const Digest server_key = hmac(salted, "Server Key");
    Digest stored_key{};
    require(SHA256(client_key.data(), client_key.size(), stored_key.data()) != nullptr,
            "SHA-256 failed");
    // Both would let their holder log in; the two keys of the verifier would not.
    OPENSSL_cleanse(salted.data(), salted.size());
    OPENSSL_cleanse(client_key.data(), client_key.size());
    return "SCRAM-SHA-256$" + std::to_string(iterations) + ":" +
           base64(salt_bytes.data(), salt_bytes.size()) + "$" +
           base64(stored_key.data(), stored_key.size()) + ":" +
           base64(server_key.data(), server_key.size());
}

bool is_scram_verifier(std::string_view text) {
    static const std::regex shape(R"(SCRAM-SHA-256\$[1-9][0-9]{0,8}:[A-Za-z0-9+/]+={0,2}\$)"
                                  R"([A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=)");
    return text.size() <= 512 && std::regex_match(text.begin(), text.end(), shape);
}

std::string scram_verifier(const Secret& password) {
    std::array<unsigned char, kSaltBytes> salt{};
    require(RAND_bytes(salt.data(), static_cast<int>(salt.size())) == 1, "no random bytes");
    return scram_verifier_with_salt(password, std::string(salt.begin(), salt.end()), kIterations);
}

}  // namespace bpg::postgres
